"""This machine's processor: its name and the instruction sets that ggml has code for.

Linux, macOS and Windows tell them without a tool; where a system does not, none are known.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
# ggml's names (in `llama_print_system_info`): what Linux calls them.
_LINUX = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX_VNNI": "avx_vnni",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
    "SME": "sme",
    "VSX": "vsx",
}
NAMES = tuple(_LINUX)
# What sysctl calls them: words of machdep.cpu.*features on Intel ...
_MACOS_INTEL = {
    "SSE3": "SSE3",
    "SSSE3": "SSSE3",
    "AVX": "AVX1.0",
    "AVX2": "AVX2",
    "F16C": "F16C",
    "FMA": "FMA",
    "BMI2": "BMI2",
    "AVX512": "AVX512F",
}
# ... and names with a value on Apple's own processors, all of which have NEON.
_MACOS_ARM = {
    "FP16_VA": "hw.optional.arm.FEAT_FP16",
    "DOTPROD": "hw.optional.arm.FEAT_DotProd",
    "MATMUL_INT8": "hw.optional.arm.FEAT_I8MM",
    "SME": "hw.optional.arm.FEAT_SME",
}
# PF_*_AVAILABLE of winnt.h, for IsProcessorFeaturePresent.
_WINDOWS = {"SSE3": 13, "SSSE3": 36, "AVX": 39, "AVX2": 40, "AVX512": 41, "NEON": 19, "DOTPROD": 43}


@dataclass(frozen=True)
class Processor:
    """`instructions` by ggml's names, of those that the system tells of: the ones `known`."""

    name: str
    architecture: str
    instructions: frozenset[str]
    known: frozenset[str]

    @property
    def lacking(self) -> frozenset[str]:
        return self.known - self.instructions


Told = tuple[str, Iterable[str], Iterable[str]]  # name, instructions, known


def processor() -> Processor:
    """The one that this program runs on."""
    architecture = platform.machine()
    if sys.platform == "linux":
        model, found, known = _linux(_CPUINFO)
    elif sys.platform == "darwin":
        model, found, known = _macos(_sysctl())
    elif sys.platform == "win32":
        model, found, known = _registered(), _windows(), _WINDOWS
    else:
        model, found, known = "", (), ()
    name = model or platform.processor() or architecture
    return Processor(name, architecture, frozenset(found), frozenset(known))


def _linux(cpuinfo: Path) -> Told:
    """Of the first core in the list: a process may run on any, and mixed ones share their sets."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            block: dict[str, str] = {}
            for line in lines:
                if not line.strip() and block:
                    break
                key, _, value = line.partition(":")
                block[key.strip()] = value.strip()
    except OSError:
        return "", (), ()
    words = set((block.get("flags") or block.get("Features") or "").split())
    model = block.get("model name") or block.get("cpu") or block.get("Model") or ""
    return model, {name for name, flag in _LINUX.items() if flag in words}, _LINUX if words else ()


def _sysctl() -> str:
    """Everything about the processor, a line each; empty where there is no sysctl."""
    try:
        done = subprocess.run(
            ["sysctl", "machdep.cpu", "hw.optional"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _macos(said: str) -> Told:
    values = {key: value.strip() for key, _, value in (x.partition(":") for x in said.splitlines())}
    words = " ".join(v for k, v in values.items() if k.endswith("features")).split()
    model = values.get("machdep.cpu.brand_string", "")
    if words:
        return model, {n for n, word in _MACOS_INTEL.items() if word in words}, _MACOS_INTEL
    known = {name for name, key in _MACOS_ARM.items() if key in values}
    return model, {name for name in known if values[_MACOS_ARM[name]] == "1"}, known


def _registered() -> str:
    """Windows' name of it."""
    winreg: Any = importlib.import_module("winreg")
    path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
        return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return ""


def _windows() -> set[str]:
    system: Any = ctypes
    has = system.windll.kernel32.IsProcessorFeaturePresent
    return {name for name, feature in _WINDOWS.items() if has(feature)}
