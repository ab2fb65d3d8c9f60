"""Which machine this is and how busy, for a truthful report; measures no speed itself."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress

import psutil

from portable.bench.report import Machine
from portable.engine.processor import processor


def machine() -> Machine:
    """This machine as it is now."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=processor().name,
        cores=_cores(),
        physical_cores=psutil.cpu_count(logical=False),
        load=_load(),
        python=platform.python_version(),
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float | None:
    if sys.platform == "win32":  # it knows none
        return None
    with suppress(OSError):
        return round(os.getloadavg()[0], 2)
    return None
