"""Shows how far a long piece of work is, on stderr; does not know what the work is.

A terminal gets a bar with bytes, rate and time left; anything else one plain line every 5 seconds
and one at the end of each phase; `quiet` nothing at all. Programs get JSON, on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

INTERVAL = 5.0

# (phase, bytes done, bytes in all or 0 if unknown, what is being done just now)
Report = Callable[[str, int, int, str], None]


def silent(phase: str, done: int, total: int, detail: str = "") -> None:
    """The report that shows nothing."""


def size(count: float) -> str:
    """Bytes as people read them: `398.1 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


class Lines:
    """Plain lines, at most one every 5 seconds and one when a phase is complete."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.clock = clock
        self.phase = ""
        self.started = self.shown = clock()
        self.first = self.high = 0
        self.complete = False

    def __call__(self, phase: str, done: int, total: int, detail: str = "") -> None:
        now = self.clock()
        if phase != self.phase:
            self.phase, self.started, self.shown = phase, now, now
            self.first = self.high = done
            self.complete = False
        self.high = max(self.high, done)
        finished = 0 < total <= self.high and not self.complete
        if finished or now - self.shown >= INTERVAL:
            self.shown, self.complete = now, finished or self.complete
            print(self._line(total, now - self.started, detail), file=self.stream, flush=True)

    def _line(self, total: int, seconds: float, detail: str) -> str:
        text = f"{self.phase} {'' if self.complete else detail}".strip() + f": {size(self.high)}"
        rate = (self.high - self.first) / seconds if seconds > 0 else 0.0
        if total:
            text += f" of {size(total)} ({100 * self.high // total} %)"
        if rate:
            text += f", {size(rate)}/s"
        if self.complete:
            return f"{text}, done in {seconds:.0f} s"
        return text + (f", {(total - self.high) / rate:.0f} s left" if total and rate else "")


class Objects:
    """A JSON object a line: at most one a second, and one at the end of each phase."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.clock = clock
        self.shown: dict[str, float] = {}
        self.high: dict[str, int] = {}

    def __call__(self, phase: str, done: int, total: int, detail: str = "") -> None:
        now, before = self.clock(), self.high.get(phase, -1)
        high = self.high[phase] = max(done, before)
        ended = 0 < total <= high and before < total
        if ended or now - self.shown.get(phase, -1.0) >= 1.0:
            self.shown[phase] = now
            event = {"phase": phase, "file": detail, "done": high, "total": total}
            print(json.dumps(event, ensure_ascii=False), file=self.stream, flush=True)


class Bars:
    """One rich bar a phase; `display` is a `rich.progress.Progress`."""

    def __init__(self, display: Any) -> None:
        self.display = display
        self.tasks: dict[str, Any] = {}
        self.high: dict[str, int] = {}

    def __call__(self, phase: str, done: int, total: int, detail: str = "") -> None:
        if phase not in self.tasks:
            self.tasks[phase] = self.display.add_task(phase, total=total or None, detail="")
        high = self.high[phase] = max(done, self.high.get(phase, 0))
        shown = "" if 0 < total <= high else detail[-40:]
        self.display.update(self.tasks[phase], completed=high, total=total or None, detail=shown)


@contextmanager
def progress(
    *, quiet: bool = False, as_json: bool = False, stream: TextIO | None = None
) -> Iterator[Report]:
    """A `Report` for the length of a `with` block; a bar only moves forward."""
    stream = stream or sys.stderr
    if quiet:
        yield silent
    elif as_json:
        yield Objects(sys.stdout)
    elif stream.isatty():
        with _display(stream) as display:
            yield Bars(display)
    else:
        yield Lines(stream)


def _display(stream: TextIO) -> Any:
    from rich import console  # noqa: PLC0415  25 ms that only a terminal needs
    from rich import progress as rich  # noqa: PLC0415  (the same)
    from rich.table import Column  # noqa: PLC0415  (the same)

    one_line = Column(no_wrap=True, overflow="ellipsis")

    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=24),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[detail]}", markup=False, table_column=one_line),
        console=console.Console(file=stream),
        redirect_stdout=False,
    )
