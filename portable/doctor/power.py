"""Battery or mains: a laptop's processor is slower on its battery."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from portable.doctor.finding import Finding


@dataclass(frozen=True)
class Power:
    """`percent` None: there is no battery, or the system tells of none."""

    percent: float | None = None
    plugged: bool = True


def gather() -> Power:
    if hasattr(psutil, "sensors_battery"):
        with contextlib.suppress(OSError, psutil.Error, RuntimeError):
            if battery := psutil.sensors_battery():
                # None where the system does not know: then nobody should be told to plug it in.
                return Power(battery.percent, battery.power_plugged is not False)
    return Power()


def judge(facts: Power) -> Iterator[Finding]:
    if facts.percent is None:
        yield Finding("power", "OK", "no battery is known here")
    elif facts.plugged:
        yield Finding("power", "OK", f"on mains, battery at {facts.percent:.0f} %")
    else:
        yield Finding(
            "power",
            "WARN",
            f"on battery ({facts.percent:.0f} %): the processor may run slower",
            "plug it in; --eco of chat and serve spares the battery",
        )
