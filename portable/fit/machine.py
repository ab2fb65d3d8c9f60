"""How fast this machine computes: timed when it is first asked for, then kept on disk.

`<cache>/speed.json` holds seconds by operation, for one processor, number of threads and llama.cpp.
What cannot be kept is measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from portable import store
from portable.engine.cores import OtherPrograms, find_cores
from portable.engine.kernels import LIMIT_SECONDS, Operation, Request, Timed, time_kernels
from portable.engine.processor import processor
from portable.errors import DiskError
from portable.folders import cache

Say = Callable[[str], None]
# Of the threads: what disturbs no measurement. Seconds that are looked at.
_QUIET, _LOOK = 0.2, 0.3
Kept = dict[str, list[tuple[Operation, Timed]]]


def others() -> float:
    """How many cores other programs keep busy just now."""
    programs = OtherPrograms(find_cores().logical)
    programs(time.monotonic())
    time.sleep(_LOOK)
    return programs(time.monotonic()) or 0.0


class Machine:
    """Times of the CPU with so many threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.name = " / ".join(
            [
                processor().name,
                f"{threads} threads",
                f"llama-cpp-python {version('llama-cpp-python')}",
            ]
        )

    @property
    def path(self) -> Path:
        return cache() / "speed.json"

    def times(
        self, operations: Iterable[Operation], say: Say, *, again: bool = False
    ) -> dict[Operation, Timed]:
        """All of these, those from the disk that are there, unless `again`. Raises EngineError."""
        wanted = list(dict.fromkeys(operations))
        known = {} if again else self._known()
        if any(one not in known for one in wanted):
            with self._alone():
                known = {} if again else self._known()
                if missing := [one for one in wanted if one not in known]:
                    known |= self._timed(missing, say)
        return {one: known[one] for one in wanted}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """After others of this program that are measuring: both would be told half the speed."""
        with ExitStack() as held:
            with suppress(OSError, Timeout):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(self.path.with_suffix(".lock"), timeout=LIMIT_SECONDS))
            yield

    def _timed(self, missing: Sequence[Operation], say: Say) -> dict[Operation, Timed]:
        say(f"measuring how fast this machine computes, once: {len(missing)} kernels")
        busy = others()
        found = self._measure(missing)
        if busy > _QUIET * self.threads:
            say(f"other programs keep {busy:.1f} cores busy: what was measured is not kept")
        else:
            self._keep(found)
        return found

    def _measure(self, operations: Sequence[Operation]) -> dict[Operation, Timed]:
        """One vector and many apart: these take turns, and many take much longer."""
        groups = [
            [one for one in operations if (one.vectors == 1) == single] for single in (True, False)
        ]
        requests = [Request(group, self.threads) for group in groups if group]
        found = time_kernels(requests)
        return {
            one: timed
            for request, times in zip(requests, found, strict=True)
            for one, timed in zip(request.operations, times, strict=True)
        }

    def _known(self) -> dict[Operation, Timed]:
        return dict(self._read().get(self.name, []))

    def _read(self) -> Kept:
        # Bytes that are no text are a ValueError.
        with suppress(OSError, ValueError, msgspec.MsgspecError):
            return msgspec.json.decode(self.path.read_bytes(), type=Kept)
        return {}

    def _keep(self, known: dict[Operation, Timed]) -> None:
        every = self._read()
        every[self.name] = list((dict(every.get(self.name, [])) | known).items())
        with suppress(OSError, DiskError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            store.write(self.path, msgspec.json.encode(every).decode())
