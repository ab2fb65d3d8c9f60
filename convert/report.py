"""What a conversion tells its caller: progress on the way, and the result; light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """`phase` is "convert", then "save". Bytes are those of the checkpoint's weights."""

    phase: str
    done_bytes: int
    total_bytes: int
    tensor: str


@dataclass(frozen=True)
class Converted:
    """A finished file: `size` in bytes, `parameters` in values."""

    path: Path
    size: int
    seconds: float
    tensors: int
    parameters: int
    quant: str
    architecture: str
    warnings: tuple[str, ...] = ()
