"""llama.cpp itself: whether it runs here, what is compiled in and loaded, what that sees."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portable.doctor.finding import Finding
from portable.engine import build, libllama
from portable.engine.death import Cause
from portable.engine.libllama import Library


@dataclass(frozen=True)
class Installed:
    """`versions` of required packages by name, `missing` those that are not installed; `pin` is the
    llama-cpp-python that this program is made for, as pip names it."""

    library: Library | Cause
    missing: tuple[str, ...] = ()
    pin: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def gather() -> Installed:
    versions: dict[str, str] = {}
    missing = []
    for requirement in build.requirements():
        name = re.match(r"[\w.-]+", requirement)
        if name and "extra ==" not in requirement:
            try:
                versions[name[0]] = importlib.metadata.version(name[0])
            except importlib.metadata.PackageNotFoundError:
                missing.append(requirement.partition(";")[0].strip())
    return Installed(libllama.look(), tuple(missing), build.pin(), versions)


def judge(facts: Installed, rebuild: str) -> Iterator[Finding]:
    """`rebuild` is the command that builds llama.cpp for this machine."""
    if facts.missing:
        yield Finding(
            "packages",
            "FAIL",
            f"not installed: {', '.join(facts.missing)}",
            "install them",
            " ".join([build.installer(), *(f'"{name}"' for name in facts.missing)]),
        )
    elif facts.versions:
        named = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
        yield Finding("packages", "OK", named)
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
