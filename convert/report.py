"""What a conversion tells its caller: progress on the way, and the result; light to import."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
class Measured:
    """What quantization did to one tensor.

    `error` is sqrt(sum (x - q)² / sum x²) over its values x and what they became, q; `squares` is
    sum x². `instead_of` is the type that the quantization would give it, if its rows divided.
    `values` were measured: not each once where the conversion was interrupted.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    error: float
    squares: float
    values: int
    instead_of: str = ""

    @property
    def bits(self) -> float:
        """Bits for each weight."""
        return 8 * self.size / math.prod(self.shape)


@dataclass(frozen=True)
class Converted:
    """A finished file of the model `name`: `size` in bytes, `parameters` in values.

    `measured` are its tensors, if that was asked for.
    """

    path: Path
    name: str
    size: int
    seconds: float
    tensors: int
    parameters: int
    quant: str
    architecture: str
    warnings: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A value from a sample of tokens, and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f}"


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

    @property
    def lines(self) -> Iterator[str]:
        """What was found, as people read it."""
        scored = f"{self.tokens} tokens in {self.chunks} chunks of {self.context}"
        yield f"perplexity {self.perplexity}, on {scored}"
        if far := self.divergence:
            yield f"perplexity in BF16 {far.base_perplexity}: {far.perplexity_ratio} times that"
            yield (
                f"KL divergence from BF16 {far.mean} nats on average, 99 % are below "
                f"{far.percentile_99:.4f}, all below {far.maximum:.4f}"
            )
            yield f"the likeliest token is the same for {far.same_top} of the tokens"
        if self.skipped:
            yield f"KL divergence is left out: {self.skipped}"
