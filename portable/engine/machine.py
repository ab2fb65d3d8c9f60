"""What this machine has, and whether a file may be a model; asks no llama.cpp."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import psutil

from portable import gguf
from portable.errors import ModelFileError


def check_file(path: Path) -> None:
    """Refuse what llama.cpp would hang on or misread: a FIFO, a directory, half a file or model."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") if stat.S_ISREG(mode) else contextlib.nullcontext() as file:
            magic = file.read(4) if file else b""
    except OSError as error:
        raise ModelFileError(
            f"{path}: {error.strerror}", hint="give the path of a .gguf file"
        ) from None
    if path.suffix == ".partial" and magic != gguf.MAGIC:
        raise ModelFileError(
            f"{path} is an unfinished conversion", hint="run portable convert again"
        )
    if magic != gguf.MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file", hint="portable convert makes one")
    gguf.check_shards(path)


def default_threads() -> int:
    """One per physical core that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, psutil.cpu_count(logical=False) or 1))
