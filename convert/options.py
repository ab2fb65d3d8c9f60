"""What can be chosen about a conversion, each default once; light to import."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convert.quants import DEFAULT_QUANT, quant_name
from portable.errors import UsageError


@dataclass(frozen=True)
class Options:
    """`name` is the model's hub id where its folder is not named like it; `threads` None: all.

    `measure`: find out how far each tensor's values move.
    `imatrix` is a file that says how much each column of the weights matters. `accept` is given
    the finished file, before it takes its name, and the checkpoint's folder; it may raise an error.
    """

    quant: str = DEFAULT_QUANT
    name: str | None = None
    threads: int | None = None
    imatrix: Path | None = None
    measure: bool = False
    accept: Callable[[Path, Path], None] = lambda path, folder: None

    def __post_init__(self) -> None:
        object.__setattr__(self, "quant", quant_name(self.quant))
        if self.threads is not None and not 1 <= self.threads <= 512:
            raise UsageError(f"threads is {self.threads}, expected 1 to 512", param="threads")

    @property
    def workers(self) -> int:
        """Threads to compute in."""
        if self.threads:
            return self.threads
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
