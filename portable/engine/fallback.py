"""How a model is tried: as it was asked for, and with less after memory ran out; remembers that.

A plan rests on what a driver says is free, which at times cannot be had. What was tried last then
lies in a file, one for each model, machine and wish, and is tried first until clearly more is free,
or for a week: another program may have taken the memory for that moment only.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from portable.engine.config import EngineConfig
from portable.engine.offload.device import GIB, Device
from portable.engine.offload.plan import Plan, fits, plan, step_down
from portable.engine.offload.shape import Shape
from portable.engine.offload.wish import Wish
from portable.errors import OutOfMemory

T = TypeVar("T")
# What was free comes and goes by this much without meaning anything.
_MORE, _MUCH = 1.25, GIB // 4
_WEEK = 7 * 86400.0  # seconds


class Lesson(msgspec.Struct, frozen=True):
    """`wish` is what to try next, and `instead` says it in words; `free` bytes were not enough."""

    wish: Wish
    instead: str
    free: dict[str, int]


@dataclass
class Fallback:
    """The plans for one load of `config`'s model, each smaller than the one before."""

    config: EngineConfig
    _lesson: Lesson | None = None
    _file: Path | None = None
    _reason: str = ""
    _kept: bool = False
    _tried: Callable[[], Lesson | None] = field(default=lambda: None)

    def plan(self, shape: Shape, devices: Sequence[Device], wish: Wish, unused: str = "") -> Plan:
        """What to try now. Raises NotEnoughMemory and UsageError, as the planner does."""
        if self._lesson is None:
            self._file = self._file_of(devices, wish)
            self._lesson = self._recalled(shape, devices)
            self._reason = "memory ran out the last time"
        now = self._lesson.wish if self._lesson else wish
        made = plan(shape, devices, now, unused=unused)
        self._tried = lambda: _next(shape, devices, now, made)
        if self._lesson is None:
            return made
        return replace(made, reason=f"{made.reason}; {self._reason}: {self._lesson.instead}")

    def failed(self) -> bool:
        """There was not so much memory: take less the next time. False when that is too little."""
        self._lesson = self._tried()
        self._reason, self._kept = "memory ran out", False
        if self._file:
            with suppress(OSError):  # then it is found out again
                _write(self._file, self._lesson)
                self._kept = True
        return self._lesson is not None

    def learned(self) -> bool:
        """As `failed`, and the next process knows it."""
        return self.failed() and self._kept

    def end(self) -> None:
        """End this process, which cannot go on, if the next one knows to take less."""
        if self.learned():
            print("portable: memory ran out; started again, it takes less", file=sys.stderr)
            os._exit(OutOfMemory.exit_code)

    def _recalled(self, shape: Shape, devices: Sequence[Device]) -> Lesson | None:
        """What was learned before, unless it is old, or clearly more is free now."""
        if self._file is None:
            return None
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=Lesson)
            age = time.time() - self._file.stat().st_mtime
        # There is none, or nobody can read it. Bytes that are no text are a ValueError.
        except (OSError, ValueError, msgspec.DecodeError):
            return None
        free = {device.name: device.free for device in devices}
        more = any(free.get(name, 0) > then * _MORE + _MUCH for name, then in found.free.items())
        if more or age > _WEEK:
            with suppress(OSError):  # then the next one finds the same
                self._file.unlink(missing_ok=True)
            return None
        # What it leaves to the host may have no room there today, where the first wish has.
        return found if fits(shape, devices, found.wish) else None

    def _file_of(self, devices: Sequence[Device], wish: Wish) -> Path | None:
        if self.config.plans is None:
            return None
        about = self.config.model.stat()
        known = (
            str(self.config.model.absolute()),
            about.st_size,
            about.st_mtime_ns,
            sorted((d.name, d.description, d.backend) for d in devices if d.kind != "cpu"),
            wish,
        )
        name = hashlib.sha256(msgspec.json.encode(known)).hexdigest()[:32]
        return self.config.plans / f"{name}.json"


def stepping_down(config: EngineConfig, make: Callable[[Fallback], T]) -> T:
    """What `make` makes, of the first plan for which there is memory.

    Raises what `make` raises, NotEnoughMemory if no plan is small enough.
    """
    fallback = Fallback(config)
    while True:
        try:
            return make(fallback)
        except OutOfMemory:
            if not fallback.failed():
                raise


def _next(shape: Shape, devices: Sequence[Device], wish: Wish, tried: Plan) -> Lesson | None:
    smaller = step_down(shape, wish, tried)
    if smaller is None or not fits(shape, devices, smaller[0]):
        return None
    held = tried.devices or [device.name for device in devices if device.kind == "cpu"]
    return Lesson(*smaller, {each.name: each.free for each in devices if each.name in held})


def _write(path: Path, lesson: Lesson | None) -> None:
    """All of it or nothing; None takes away what is there."""
    if lesson is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_bytes(msgspec.json.encode(lesson))
    new.replace(path)
