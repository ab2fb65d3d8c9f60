"""llama.cpp itself: whether it runs here, what is compiled in and loaded, what that sees."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass

from portable.doctor.finding import Finding
from portable.engine import build, libllama
from portable.engine.death import Cause
from portable.engine.libllama import Library


@dataclass(frozen=True)
class Installed:
    """`missing` are required packages that are not installed; `pin` is the llama-cpp-python that
    this program is made for, as pip names it."""

    library: Library | Cause
    missing: tuple[str, ...] = ()
    pin: str = ""


def gather() -> Installed:
    return Installed(libllama.look(), tuple(_missing()), build.pin())


def judge(facts: Installed, rebuild: str) -> Iterator[Finding]:
    """`rebuild` is the command that builds llama.cpp for this machine."""
    if facts.missing:
        yield Finding(
            "packages",
            "FAIL",
            f"not installed: {', '.join(facts.missing)}",
            "install them",
            f"{build.installer()} {' '.join(facts.missing)}",
        )
    found = facts.library
    if isinstance(found, Cause):
        again = "" if found.mend else rebuild
        mend = found.mend or "build it on this machine, or install a wheel (below)"
        yield Finding("llama.cpp", "FAIL", f"cannot run here: {found.what}", mend, again)
        return
    what = f"llama-cpp-python {found.version} (llama.cpp {found.commit}) loads and computes"
    wanted = facts.pin.partition("==")[2]
    if wanted and found.version != wanted:
        yield Finding(
            "llama.cpp",
            "WARN",
            f"{what}, but portable is made for {wanted}: its functions change with each release",
            "install that one",
            rebuild,
        )
    else:
        yield Finding("llama.cpp", "OK", what)
    yield _backends(found)


def _backends(found: Library) -> Finding:
    """Those of ggml's registry: compiled in, or loaded from files of their own."""
    devices = ", ".join(map(str, found.devices)) or "no GPU"
    return Finding("backends", "OK", f"{', '.join(found.backends)}; they see {devices}")


def _missing() -> Iterator[str]:
    for requirement in build.requirements():
        name = re.match(r"[\w.-]+", requirement)
        if "extra ==" in requirement or name is None:
            continue
        try:
            importlib.metadata.distribution(name[0])
        except importlib.metadata.PackageNotFoundError:
            yield requirement.partition(";")[0].strip()
