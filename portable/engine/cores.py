"""The processor: which cores are for the model, who else uses them, what feeds them.

Performance cores are told apart on Linux only; elsewhere all physical cores count.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_SYSTEM = Path("/")
_CPU = "sys/devices/system/cpu"
# A core below this share of the fastest one's capacity or clock is an efficiency core: those of
# today have 0.65 to 0.8, while a processor's favoured cores are some percent ahead of their like.
_PERFORMANCE = 0.82
# Programs of low priority take what is left over, but their coming and going disturbs, too.
_POLITE = 0.5
_WORKING = {"user": 1, "nice": _POLITE, "system": 1, "irq": 1, "softirq": 1, "steal": 1}
_WINDOW = 0.25
_NICE = 10


@dataclass(frozen=True, slots=True)
class Cores:
    """Logical cores to run on, by number, and threads to run: one a physical core.

    `pinned`: there are slower cores, and the threads must be kept off them.
    """

    logical: frozenset[int]
    threads: int
    pinned: bool = False


def find_cores(system: Path = _SYSTEM) -> Cores:
    """What affinity, control groups and core types leave to this process."""
    allowed = _allowed()
    fast = _performance(system, allowed)
    physical = _physical(system, fast)
    quota = _quota(system)
    threads = min(physical, int(quota)) if quota else physical
    return Cores(fast, max(1, threads), pinned=fast != allowed)


def default_threads() -> int:
    """One per physical performance core that this process may use."""
    return find_cores().threads


def settle(cores: Cores, named: int, *, eco: bool) -> tuple[int, str]:
    """Take these cores, gently on battery if that is wanted: threads, and what was done about it.

    Threads that are started later inherit it. A count that somebody `named` is kept; 0 is none.
    """
    if cores.pinned and not named and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores.logical)
    source = _power() if eco else ""
    if not source or source == "on mains":
        return named or cores.threads, source and f"{source}: --eco changes nothing"
    threads = named or max(1, cores.threads // 2)
    with contextlib.suppress(psutil.Error, OSError):
        low = psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else _NICE
        psutil.Process().nice(low)
    return threads, f"{source}: {threads} of {cores.threads} threads, low priority"


class OtherPrograms:
    """How many of the `cores` processes other than this one kept busy since it was last asked.

    Those of low priority count half.
    """

    def __init__(self, cores: frozenset[int]) -> None:
        self._cores = cores
        polite = sys.platform != "win32" and os.nice(0) > 0
        self._own = _POLITE if polite else 1
        self._last: tuple[float, float] | None = None

    def __call__(self, at: float) -> float | None:
        """None more often than some times a second: ticks of the clock are too coarse for it."""
        if self._last and at - self._last[0] < _WINDOW:
            return None
        last, self._last = self._last, (at, self._busy() - self._own * time.process_time())
        return max(0.0, (self._last[1] - last[1]) / (at - last[0])) if last else None

    def _busy(self) -> float:
        every = psutil.cpu_times(percpu=True)
        return sum(
            weight * getattr(times, name, 0.0)
            for number, times in enumerate(every)
            if number in self._cores
            for name, weight in _WORKING.items()
        )


def _allowed() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _performance(system: Path, allowed: frozenset[int]) -> frozenset[int]:
    """Those of the allowed cores that are about as fast as the fastest."""
    named = _text(system / "sys/devices/cpu_core/cpus")  # Intel's hybrid processors
    if named:
        return frozenset(_numbers(named)) & allowed or allowed
    for measure in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        found = {n: _text(system / _CPU / f"cpu{n}" / measure) for n in allowed}
        if all(value.isdecimal() for value in found.values()):
            least = _PERFORMANCE * max(int(value) for value in found.values())
            return frozenset(n for n, value in found.items() if int(value) >= least)
    return allowed


def _physical(system: Path, logical: frozenset[int]) -> int:
    """Cores that have at least one of these threads."""
    found = {_text(system / _CPU / f"cpu{n}/topology/thread_siblings_list") for n in logical}
    if "" in found:
        return min(len(logical), psutil.cpu_count(logical=False) or len(logical))
    return len(found)


def _quota(system: Path) -> float:
    """Cores' worth of time that the control groups grant; 0 without a limit."""
    groups = system / "sys/fs/cgroup"
    own = _text(system / "proc/self/cgroup").rpartition("0::/")[2].partition("\n")[0]
    limits = [_text(folder / "cpu.max") for folder in (groups / own, *(groups / own).parents)]
    old = groups / "cpu/cpu.cfs_quota_us", groups / "cpu/cpu.cfs_period_us"
    limits.append(" ".join(_text(path) for path in old))
    parts = (limit.split() for limit in limits)
    found = [int(p[0]) / int(p[1]) for p in parts if len(p) == 2 and all(x.isdecimal() for x in p)]
    return min(found, default=0.0)


def _power() -> str:
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        return "no battery is known here"
    return "on mains" if battery.power_plugged else f"on battery ({battery.percent:.0f} %)"


def _numbers(text: str) -> Iterator[int]:
    """`0-3,8` as 0, 1, 2, 3, 8."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii").strip()
    return ""
