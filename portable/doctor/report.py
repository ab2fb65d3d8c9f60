"""All checks of a machine, at once where they wait; knows no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from portable.doctor import cpu, disk, gpus, hubs, library, memory, network, power, system, tools
from portable.doctor.finding import Finding
from portable.doctor.hubs import Reach
from portable.doctor.library import Installed
from portable.doctor.tools import Tools
from portable.engine import build, libllama
from portable.engine import gpus as engine_gpus
from portable.engine.death import Cause
from portable.engine.findings import Facts
from portable.errors import plain


class Report(msgspec.Struct, frozen=True):
    """`backend` is what suits this machine best; `build` is the line that builds llama.cpp with it,
    `wheel` the one that installs a prebuilt one, empty where none is known."""

    findings: list[Finding]
    backend: str
    build: str
    wheel: str

    @property
    def failed(self) -> bool:
        return any(finding.status == "FAIL" for finding in self.findings)


def examine(*, offline: bool = False) -> Report:
    """Some seconds at most, but for GPUs whose driver wakes slowly."""
    with ThreadPoolExecutor() as pool:
        reach = None if offline else pool.submit(hubs.gather)
        compilers = pool.submit(tools.gather)
        installed = library.gather()
        seen = _graphics(installed)
        found = compilers.result()
    return conclude(installed, seen, found, lambda: reach.result() if reach else None)


def conclude(
    installed: Installed, seen: Facts, found: Tools, reach: Callable[[], list[Reach] | None]
) -> Report:
    """What these facts come to, with those that are gathered at once."""
    best = gpus.target(seen, found)
    line, driver = build.command(best), seen.nvidia.cuda
    loaded = None if isinstance(installed.library, Cause) else installed.library.features
    compiled = None if loaded is None else loaded.get("CPU", {})
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "system": lambda: system.judge(system.gather()),
        "processor": lambda: cpu.judge(cpu.gather(), compiled, line),
        "memory": lambda: memory.judge(memory.gather()),
        "llama.cpp": lambda: library.judge(installed, line),
        "gpu": lambda: gpus.judge(seen, best, loaded),
        "hub": lambda: hubs.judge(reach()),
        "disk": lambda: disk.judge(disk.gather()),
        "network": lambda: network.judge(network.gather()),
        "power": lambda: power.judge(power.gather()),
    }
    findings = [finding for name, check in checks.items() for finding in _checked(name, check)]
    if any(finding.command == line for finding in findings):
        findings += tools.judge(found, best, driver)
    return Report(findings, best.backend, line, build.wheel(best, driver))


def _checked(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A machine on which a check itself breaks is one that has to be told about."""
    try:
        return list(check())
    except Exception as error:
        what = plain(f"cannot be looked at: {type(error).__name__}: {error}")
        return [Finding(name, "WARN", what, "please report it")]


def _graphics(installed: Installed) -> Facts:
    """The GPUs of the system, beside what llama.cpp sees of them if it loads."""
    found = installed.library
    if isinstance(found, Cause):
        return engine_gpus.look((), ())
    said = "\n".join(found.log)
    return engine_gpus.look(found.backends, found.devices, said, folder=libllama.folder())
