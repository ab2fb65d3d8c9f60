"""The operating system, this Python, and whether the terminal shows what models write."""

from __future__ import annotations

import locale
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from portable import __version__
from portable.doctor.finding import Finding

_CHINESE = "你好"


@dataclass(frozen=True)
class System:
    """`kind` is sys.platform, `bits` those of a pointer of this Python, `encoding` stdout's.

    `translated`: an Apple processor runs this Python as if it were an Intel one. `terminal` is
    TERM, where stdout is a terminal.
    """

    kind: str
    name: str
    python: str
    bits: int
    encoding: str
    translated: bool = False
    terminal: str = ""


def gather() -> System:
    return System(
        kind=sys.platform,
        name=_name(),
        python=f"Python {platform.python_version()}",
        bits=8 * struct.calcsize("P"),
        encoding=(sys.stdout and sys.stdout.encoding) or locale.getpreferredencoding(False),
        translated=_is_translated(),
        terminal=os.environ.get("TERM", "") if sys.stdout and sys.stdout.isatty() else "",
    )


def judge(facts: System) -> Iterator[Finding]:
    found = f"{facts.name}, {facts.python}, portable {__version__}"
    if facts.bits < 64:
        yield Finding(
            "system",
            "FAIL",
            f"{found}: {facts.bits} bits address no model",
            "install a 64-bit Python",
        )
    elif facts.translated:
        yield Finding(
            "system",
            "WARN",
            f"{found}: Rosetta translates it, llama.cpp cannot use the GPU",
            "install Python for Apple silicon (arm64), and portable with it",
        )
    else:
        yield Finding("system", "OK", found)
    yield _terminal(facts)


def _terminal(facts: System) -> Finding:
    try:
        _CHINESE.encode(facts.encoding)
    except (UnicodeError, LookupError):
        windows = facts.kind == "win32"
        return Finding(
            "terminal",
            "WARN",
            f"{facts.encoding} cannot show Chinese, nor most other languages",
            "use UTF-8",
            '$env:PYTHONUTF8="1"; chcp 65001' if windows else "export LC_ALL=C.UTF-8",
        )
    if facts.terminal == "linux":
        return Finding(
            "terminal",
            "WARN",
            "the Linux console has no Chinese characters",
            "use a terminal program, ssh, or the web page of portable serve",
        )
    return Finding("terminal", "OK", f"{facts.encoding} shows every language")


def _name() -> str:
    """Linux by its distribution, which names the package manager; others by their version."""
    machine = platform.machine()
    if sys.platform == "linux":
        try:
            pretty = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
        except OSError:
            pretty = "Linux"
        wsl = " in WSL" if "microsoft" in platform.release().lower() else ""
        return f"{pretty}{wsl} (Linux {platform.release()} {machine})"
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {machine}"
    return f"{platform.system()} {platform.release()} {platform.version()} {machine}"


def _is_translated() -> bool:
    if sys.platform != "darwin":
        return False
    try:
        command = ["sysctl", "-n", "sysctl.proc_translated"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "1"
