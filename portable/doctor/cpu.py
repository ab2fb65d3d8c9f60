"""The processor: how many cores work, and whether llama.cpp was compiled for what it can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

from portable.doctor.finding import Finding
from portable.engine.cores import Cores, find_cores
from portable.engine.processor import NAMES, Processor, processor

# Instruction sets that ggml's kernels gain from by much.
_WORTH = (
    "AVX", "AVX2", "FMA", "F16C", "AVX_VNNI", "AVX512", "AVX512_VNNI", "AMX_INT8",
    "NEON", "DOTPROD", "MATMUL_INT8", "SVE",
)  # fmt: skip


@dataclass(frozen=True)
class Cpu:
    """`physical` and `logical` cores of the whole machine; `cores` are for this process."""

    chip: Processor
    cores: Cores
    physical: int
    logical: int


def gather() -> Cpu:
    logical = psutil.cpu_count() or 1
    return Cpu(processor(), find_cores(), psutil.cpu_count(logical=False) or logical, logical)


def judge(facts: Cpu, compiled: Mapping[str, str] | None, rebuild: str) -> Iterator[Finding]:
    """`compiled` are the features that ggml's CPU backend says it has; None: it does not load."""
    yield _cores(facts)
    if facts.chip.known:
        yield _instructions(facts.chip, compiled, rebuild)


def _cores(facts: Cpu) -> Finding:
    cores = facts.cores
    parts = [f"{facts.chip.name}: {facts.physical} cores"]
    if facts.logical != facts.physical:
        parts.append(f"{facts.logical} logical")
    if cores.pinned:
        parts.append(f"{len(cores.logical)} logical ones of them are performance cores")
    found = f"{', '.join(parts)}; {cores.threads} threads work"
    if cores.threads == 1 and facts.physical > 3:
        return Finding(
            "processor",
            "WARN",
            f"{found}: affinity or a container leaves this process no more",
            "allow it more cores: docker run --cpus N, taskset -c 0-N",
        )
    return Finding("processor", "OK", found)


def _instructions(chip: Processor, compiled: Mapping[str, str] | None, rebuild: str) -> Finding:
    name, has = "instructions", sorted(chip.instructions, key=NAMES.index)
    if compiled is None:
        return Finding(name, "OK", ", ".join(has))
    built = {key for key, value in compiled.items() if value not in ("", "0")}
    if lacking := [key for key in NAMES if key in built & chip.lacking]:
        return Finding(
            name,
            "FAIL",
            f"llama.cpp was built for {', '.join(lacking)}, which this processor lacks",
            "build it on this machine",
            rebuild,
        )
    covered = {"AVX_VNNI"} if "AVX512_VNNI" in built else set()  # wider, and the same
    if unused := [key for key in _WORTH if key in chip.instructions - built - covered]:
        return Finding(
            name,
            "WARN",
            f"llama.cpp was built without {', '.join(unused)}, which this processor has: slow",
            "build it on this machine",
            rebuild,
        )
    slow = (
        "" if chip.instructions & {"AVX2", "NEON", "VSX"} else "; it has no AVX2: models are slow"
    )
    return Finding(name, "OK", f"llama.cpp uses all of {', '.join(has)}{slow}")
