"""How a process with llama.cpp in it ended, in words, and what mends that; pure.

What the loader of each system says is matched, not what we think of it: the texts are those of
glibc, musl, macOS and Windows, as ctypes passes them on.
"""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from portable.errors import plain

# What Windows' exit codes of a process that crashed mean, by the names of POSIX's signals.
_NT_STATUS = {
    0xC000001D: "SIGILL",
    0xC0000005: "SIGSEGV",
    0xC0000094: "SIGFPE",
    0xC0000409: "SIGABRT",
    0xC0000017: "out of memory",
    0xC0000135: "a DLL is missing",
    0xC0000142: "a DLL does not start",
}
# Beginnings of missing libraries' names: what each belongs to, and how to get it.
_PARTS = {
    "libcuda.": (
        "NVIDIA's driver",
        "install the driver; in a container, start it with its GPUs: docker run --gpus all",
    ),
    "nvcuda": ("NVIDIA's driver", "install the driver"),
    "libcudart": ("CUDA's runtime", "install the CUDA toolkit of that version"),
    "libcublas": ("CUDA's runtime", "install the CUDA toolkit of that version"),
    "libnccl": ("NVIDIA's NCCL", "apt install libnccl2"),
    "libamdhip": ("ROCm's runtime", "install ROCm of that version"),
    "libhip": ("ROCm's runtime", "install ROCm of that version"),
    "librocblas": ("ROCm's runtime", "install ROCm of that version"),
    "libvulkan": ("Vulkan's loader", "apt install libvulkan1 (dnf: vulkan-loader)"),
    "libgomp": ("OpenMP's runtime", "apt install libgomp1 (dnf, apk: libgomp)"),
    "libomp": ("OpenMP's runtime", "brew install libomp"),
    "libopenblas": ("OpenBLAS", "apt install libopenblas0"),
    "libstdc++": ("C++'s runtime", "apt install libstdc++6 (apk: libstdc++)"),
    "libggml": ("llama.cpp itself", ""),
    "libllama": ("llama.cpp itself", ""),
}
_MISSING = re.compile(
    r"([\w.+-]+\.so[\w.]*): cannot open shared object file: No such file"  # glibc
    r"|Error loading shared library ([\w.+-]+): No such file"  # musl
    r"|Library not loaded: \S*?([\w.+-]+\.dylib)"  # macOS
)
# Other words of loaders: what they mean, what to do; empty where llama.cpp has to be built again.
_WORDS = (
    (r"No module named '(llama_cpp)'", "llama-cpp-python is not installed", ""),
    (r"No module named '(\w+)'", "the Python package {0} is missing", "pip install portable-llm"),
    (
        r"Shared library with base name '(\w+)' not found",
        "lib{0} is not where it should be",
        "unset LLAMA_CPP_LIB_PATH if it is set, else build llama.cpp again",
    ),
    (
        r"wrong ELF class|incompatible architecture|WinError 193|Exec format error",
        "its files are for another processor architecture than this Python",
        "",
    ),
    (
        r"version [`'](GLIBC(?:XX)?_[\d.]+)' not found",
        "it was built on a newer system than this one: {0} is missing",
        "",
    ),
    (r"file too short|invalid ELF header|not a mach-o file", "its files are damaged", ""),
    (r"undefined symbol: (\w+)|[Ss]ymbol not found:? (\w+)", "its files do not fit together", ""),
    (
        r"Could not find module|WinError 126",
        "it lacks a DLL: Visual C++'s runtime, or CUDA's",
        "install Microsoft's Visual C++ Redistributable, and for CUDA its toolkit (CUDA_PATH)",
    ),
    (
        r"NumPy was built with baseline optimizations",
        "numpy was built for a newer processor than this one",
        "pip install --force-reinstall --no-binary numpy numpy",
    ),
)


class Cause(NamedTuple):
    """`mend` is a command, or what else to do; empty: llama.cpp has to be built again."""

    what: str
    mend: str = ""


def name(code: int) -> str:
    """An exit code of `subprocess` as people know it: `SIGILL`, or `exit code 3`."""
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return _NT_STATUS.get(code, f"exit code {code}")


def explain(code: int | None, words: str) -> Cause:
    """Why a process ended with this code, by the error that it wrote.

    Without a code it has not ended: then `words` are those of an error in it.
    """
    how = "" if code is None else name(code)
    if how == "SIGILL":
        return Cause("it was built for a processor with other instructions than this one (SIGILL)")
    if missing := _MISSING.search(words):
        return _missing(next(filter(None, missing.groups())))
    for pattern, what, mend in _WORDS:
        if found := re.search(pattern, words):
            return Cause(what.format(*filter(None, found.groups())), mend)
    if how == "SIGKILL":
        return Cause(
            "it was killed (SIGKILL), by the system if memory ran out", "give it more memory"
        )
    parts = (how and f"its process ended with {how}", plain(words.strip())[:200])
    return Cause(": ".join(filter(None, parts)))


def _missing(library: str) -> Cause:
    for start, (part, mend) in _PARTS.items():
        if library.startswith(start):
            return Cause(f"{part} is missing: {library}", mend)
    return Cause(f"the library {library} is missing", f"install the package that has {library}")
