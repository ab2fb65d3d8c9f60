"""What a conversion tells its caller: progress on the way, and the result; light to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """`phase` is "convert", then "save". Bytes are those of the checkpoint's weights."""

    phase: str
    done_bytes: int
    total_bytes: int
    tensor: str


Report = Callable[[Progress], None]


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
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class Estimate:
    """A value from a sample of tokens, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Divergence:
    """How far a model's distributions of the next token are from those of the model it was made of.

    `mean`, `median`, `percentile_99` and `maximum` are those of the Kullback-Leibler divergence in
    nats, token by token; `same_top` is the share of tokens where both find the same one likeliest;
    `perplexity_ratio` is this model's perplexity over `base_perplexity`.
    """

    base_perplexity: Estimate
    perplexity_ratio: Estimate
    mean: Estimate
    median: float
    percentile_99: float
    maximum: float
    same_top: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What a finished model does to a text: `chunks` of `context` tokens, `tokens` of them scored.

    Without `divergence`, `skipped` says why it was not measured, if it was asked for.
    """

    perplexity: Estimate
    tokens: int
    chunks: int
    context: int
    divergence: Divergence | None = None
    skipped: str = ""
