"""`--quant auto`: the fastest on this machine of what is no worse than the default quantization.

How good is measured on a sample of the model's rows, how fast by ggml's kernels for its row
lengths; what follows from that is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convert.quants import DEFAULT_QUANT
from convert.survey import Candidate
from portable.engine import kernels
from portable.engine.kernels import Matrix
from portable.tensortype import TensorType

Rates = Mapping[tuple[TensorType, int], float]
# Two samples of one model differ by less, and so do two timings of one kernel.
AS_GOOD, AS_FAST = 1.01, 1.03


@dataclass(frozen=True)
class Ranked:
    """A candidate with the seconds that its matrix products take for one token."""

    candidate: Candidate
    seconds: float
    good: bool

    @property
    def rate(self) -> float:
        """Tokens a second, if nothing but matrix products took time."""
        return 1 / self.seconds


@dataclass(frozen=True)
class Choice:
    """`best` is one of `ranked`, which stand in the candidates' order."""

    best: Ranked
    ranked: tuple[Ranked, ...]

    @property
    def reason(self) -> str:
        base = next(row for row in self.ranked if row.candidate.quant == DEFAULT_QUANT)
        best, here = self.best.candidate, f"{self.best.rate:.0f} tok/s of matrix products here"
        if self.best is base:
            return f"{best.quant}: nothing as good is faster on this machine ({here})"
        return (
            f"{best.quant}: {here}, where {DEFAULT_QUANT} has {base.rate:.0f}; relative error "
            f"{100 * best.error:.2f} % against {100 * base.candidate.error:.2f} %"
        )


def choose(candidates: Sequence[Candidate], rates: Rates) -> Choice:
    """The fastest candidate whose error is no larger than the default quantization's.

    `rates` are seconds a value. Of those that are about as fast, the smallest.
    """
    base = next(c for c in candidates if c.quant == DEFAULT_QUANT)
    ranked = tuple(
        Ranked(
            candidate,
            sum(values * rates[kind] for kind, values in candidate.work.items()),
            candidate.error <= base.error * AS_GOOD,
        )
        for candidate in candidates
    )
    good = [row for row in ranked if row.good]
    fastest = min(row.seconds for row in good)
    close = [row for row in good if row.seconds <= fastest * AS_FAST]
    return Choice(min(close, key=lambda row: row.candidate.size), ranked)


def time_kernels(candidates: Sequence[Candidate], threads: int = 0) -> Rates:
    """Seconds a value for all that the candidates multiply. Raises EngineError."""
    kinds = list(dict.fromkeys(kind for c in candidates for kind in c.work))
    matrices = [Matrix(kind.id, columns, kind.row_bytes(columns)) for kind, columns in kinds]
    (found,) = kernels.time_kernels([kernels.Request([*matrices], threads)])
    return {kind: timed.seconds for kind, timed in zip(kinds, found, strict=True)}
