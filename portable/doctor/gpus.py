"""The GPUs, why one is not used, and what llama.cpp is to be built for on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from portable.doctor.finding import Finding
from portable.doctor.tools import Tools
from portable.engine import build
from portable.engine.build import Target
from portable.engine.findings import BACKENDS, Facts, find
from portable.engine.nvidia import Gpu
from portable.engine.offload.device import GIB

# Which of `build`'s backends compiles in each of ggml's.
_BACKENDS = {name: backend for backend, name in build.REGISTERED.items()}
_COMPILED = {name for names in BACKENDS.values() for name in names}


def target(facts: Facts, tools: Tools) -> Target:
    """What suits the GPUs best: their maker's own backend where its architectures are known."""
    vendors = {adapter.vendor for adapter in facts.adapters if not adapter.integrated}
    if any(adapter.vendor == "Apple" for adapter in facts.adapters):
        return Target("metal")
    if facts.nvidia.gpus or "NVIDIA" in vendors:
        return Target("cuda", architectures(facts))
    if "AMD" in vendors and tools.rocm and tools.gfx:
        return Target("rocm", tools.gfx)
    return Target("vulkan") if vendors else Target("cpu")


def architectures(facts: Facts) -> tuple[str, ...]:
    """CUDA's names of the GPUs' kinds: compute capability 8.6 is 86."""
    known = {gpu.capability for gpu in facts.nvidia.gpus if any(gpu.capability)}
    return tuple(f"{major}{minor}" for major, minor in sorted(known))


def judge(
    facts: Facts, best: Target, compiled: Mapping[str, Mapping[str, str]] | None
) -> Iterator[Finding]:
    """`compiled` are ggml's features by backend; None: it does not load, and nobody can say."""
    yield from _there(facts)
    if compiled is None:
        return
    for found in find(facts):
        if found.note:
            yield Finding("gpu", "OK", found.what)
            continue
        missing = next((name for name in _COMPILED if found.mend == facts.build(name)), "")
        mend = "build llama.cpp for it" if missing else found.mend
        line = _command(missing, best) if missing else ""
        yield Finding("gpu", "WARN", found.what, mend, line)
    yield from _too_new(facts, best, compiled.get("CUDA", {}).get("ARCHS", ""))


def _command(missing: str, best: Target) -> str:
    """Builds for the best target where that suits the GPU that lacks a backend, too."""
    suitable = next((names for names in BACKENDS.values() if names[0] == missing), (missing,))
    wanted = _BACKENDS.get(missing, "vulkan")  # SYCL's GPUs have Vulkan
    return build.command(best if build.REGISTERED[best.backend] in suitable else Target(wanted))


def _there(facts: Facts) -> Iterator[Finding]:
    driver = f"driver {facts.nvidia.driver} (CUDA {facts.nvidia.cuda or '?'})"
    for gpu in facts.nvidia.gpus:
        yield Finding("gpu", "OK", f"{gpu.name}: {driver}, {_shown(gpu)}")
    others = [a for a in facts.adapters if a.vendor != "NVIDIA" or not facts.nvidia.gpus]
    for adapter in others:
        kind = "integrated " if adapter.integrated else ""
        place = " ".join(filter(None, (adapter.bus, adapter.driver and f"driver {adapter.driver}")))
        yield Finding(
            "gpu", "OK", f"an {kind}{adapter.vendor} GPU" + (f" ({place})" if place else "")
        )
    if not (facts.nvidia.gpus or others or facts.devices):
        yield Finding("gpu", "OK", "none: the processor does the work")


def _shown(gpu: Gpu) -> str:
    major, minor = gpu.capability
    memory = (
        f"{gpu.free / GIB:.1f}/{gpu.total / GIB:.1f} GiB free" if gpu.total else "shared memory"
    )
    return f"compute capability {major}.{minor}, {memory}"


def _too_new(facts: Facts, best: Target, compiled: str) -> Iterator[Finding]:
    """`compiled` is CUDA's list, `750,860`: code for newer GPUs than one that is here."""
    built = [int(number) for number in re.findall(r"\d+", compiled)]
    for gpu in facts.nvidia.gpus:
        major, minor = gpu.capability
        if built and major and min(built) > 100 * major + 10 * minor:
            yield Finding(
                "gpu",
                "FAIL",
                f"{gpu.name} has compute capability {major}.{minor}, llama.cpp was built for"
                f" {min(built) / 100:.1f} and newer",
                "build it for this GPU",
                build.command(best),
            )
