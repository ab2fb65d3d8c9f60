"""Memory: how much a model may take, what limits it, and whether the machine swaps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from portable.doctor.finding import Finding
from portable.engine.machine import available_memory

GB = 1e9
# A model of 0.5 B parameters needs about the first; below the second few models are left.
_NONE, _LITTLE = 0.6 * GB, 2 * GB


@dataclass(frozen=True)
class Memory:
    """Bytes. `free` is what this process can take, `machine` what the whole machine has free.

    `largest` is the program that holds most, where memory is short.
    """

    total: int
    machine: int
    free: int
    swap_total: int = 0
    swap_used: int = 0
    largest: str = ""


def gather() -> Memory:
    memory, free = psutil.virtual_memory(), available_memory()
    swap_total = swap_used = 0
    with contextlib.suppress(OSError, psutil.Error, RuntimeError):  # a sandbox may hide it
        swap = psutil.swap_memory()
        swap_total, swap_used = swap.total, swap.used
    largest = _largest() if free < _LITTLE else ""
    return Memory(memory.total, memory.available, free, swap_total, swap_used, largest)


def judge(facts: Memory) -> Iterator[Finding]:
    found = f"{facts.free / GB:.1f} of {facts.total / GB:.1f} GB can be taken"
    limited = facts.free < 0.9 * facts.machine
    if limited:
        found += f" ({facts.machine / GB:.1f} are free, but a container's limit is lower)"
    if facts.free >= _LITTLE:
        yield Finding("memory", "OK", found)
    else:
        holder = f"; {facts.largest}" if facts.largest and not limited else ""
        mend = "give the container more: docker run --memory 8g" if limited else "close programs"
        if facts.free < _NONE:
            yield Finding("memory", "FAIL", f"{found}: no model fits{holder}", mend)
        else:
            yield Finding("memory", "WARN", f"{found}: only small models fit{holder}", mend)
    yield _swap(facts)


def _swap(facts: Memory) -> Finding:
    if not facts.swap_total:
        return Finding("swap", "OK", "none: what does not fit in memory is refused or killed")
    found = f"{facts.swap_used / GB:.1f} of {facts.swap_total / GB:.1f} GB are used"
    if facts.swap_used > max(GB, facts.swap_total / 2):
        return Finding("swap", "WARN", f"{found}: the machine is short of memory", "close programs")
    return Finding("swap", "OK", found)


def _largest() -> str:
    held = [
        (process.info["memory_info"].rss, process.info["name"], process.pid)
        for process in psutil.process_iter(["memory_info", "name"])
        if process.info["memory_info"]
    ]
    size, name, pid = max(held, default=(0, "", 0))
    return f"{name} (process {pid}) holds {size / GB:.1f} GB" if name else ""
