"""The files that a model could be run from, one a quantization, known from their heads alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from portable.gguf import Head


@dataclass(frozen=True)
class Variant:
    """One quantization; sizes in bytes.

    `fetch` has still to be downloaded, and `disk` is the room that is needed to have the file, of
    `size`, where it is not `here` already. `heads` are those of all its files.
    """

    quant: str
    size: int
    heads: tuple[Head, ...]
    fetch: int = 0
    disk: int = 0
    here: bool = False
    needs_imatrix: bool = False


@dataclass(frozen=True)
class Candidates:
    """All that a name can mean; `default` is the quantization that is taken if none is named.

    `files` begin like those of one variant, whose heads are whole: what a file begins with, and its
    size. The disk at `folder` has `free` bytes.
    """

    model: str
    source: str
    default: str
    variants: tuple[Variant, ...]
    files: tuple[tuple[bytes, int], ...]
    folder: Path
    free: int
