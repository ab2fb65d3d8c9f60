"""Makes an importance matrix: what a model multiplies its weights with, squared and summed.

The sums are llama-imatrix's: of each column, over all tokens of a text.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.imatrix import Entry, Imatrix
from portable.errors import NonFiniteLogits
from portable.measure.chunks import Report, silent
from portable.measure.reader import Reader
from portable.measure.tensors import MATMUL, MATMUL_OF_EXPERTS, Tensor, Watch

# llama.cpp skips multiplications with fewer rows: they are no weights' (as of its imatrix.cpp).
FEW_ROWS = 16
Floats = np.ndarray[Any, np.dtype[np.float64]]


def make_imatrix(
    model: Path,
    text: str,
    name: str,
    *,
    context: int = 512,
    chunks: int | None = None,
    progress: Report = silent,
) -> Imatrix:
    """The importance matrix of a GGUF file on a text called `name`, at most `chunks` chunks of it.

    Call it in the main thread: Ctrl-C ends it at once. Raises UsageError for a text of less than
    one chunk, NonFiniteLogits where the model computes no numbers, and what loading raises.
    """
    sums = Sums()
    watch = Watch(wanted, sums.add)
    with closing(Reader(model, context, watch.callback)) as reader, watch.interruptible():
        parts = reader.chunks(text, context, chunks)
        for part in reader.each(parts, progress):
            # Every token's logits: else the last layer sees only the tokens that are asked for.
            for _ in reader.logits(part, 0):
                watch.check()
        watch.check()
    return Imatrix(sums.entries(), (name,), len(parts), context)


def wanted(tensor: Tensor) -> bool:
    """Whether this is a product of a layer's weights."""
    if tensor.operation == MATMUL_OF_EXPERTS:
        return True
    if tensor.operation != MATMUL or not weight_name(tensor).startswith("blk."):
        return False
    values = tensor.operand(1)
    return values.is_float32 and values.shape[-2] >= FEW_ROWS


def weight_name(tensor: Tensor) -> str:
    """The name of the weights, without what the scheduler adds to copies: `CUDA0#NAME#0`."""
    parts = tensor.operand(0).name.split("#")
    return parts[1] if len(parts) > 1 else parts[0]


@dataclass(eq=False)
class Sums:
    """Sums of squares, [experts, columns], and how many rows went into them, of each weight."""

    squares: dict[str, Floats] = field(default_factory=dict)
    counts: dict[str, Floats] = field(default_factory=dict)

    def add(self, product: Tensor) -> None:
        """Take in what a product's weights were multiplied with."""
        name, weights = weight_name(product), product.operand(0).shape
        values = product.operand(1).read()
        if product.operation == MATMUL_OF_EXPERTS:
            chosen = product.operand(2).read()[0, 0]
            squares, counts = expert_sums(values[0], chosen, experts=weights[1])
        else:
            squares, counts = dense_sums(values, weights[:2])
        if not np.isfinite(squares).all():
            raise NonFiniteLogits(f"the model multiplies {name} with what is not a number")
        self.squares[name] = self.squares.get(name, 0) + squares
        self.counts[name] = self.counts.get(name, 0) + counts

    def entries(self) -> dict[str, Entry]:
        return {
            name: Entry(
                squares.astype(np.float32).reshape(-1), self.counts[name].astype(np.float32)
            )
            for name, squares in self.squares.items()
        }


def dense_sums(values: Any, matrices: tuple[int, ...]) -> tuple[Floats, Floats]:
    """`values`, [outer, inner, rows, columns], meet each matrix of [outer, inner] in turn."""
    squares = np.zeros((*matrices, values.shape[-1]))
    for outer, block in enumerate(values):
        for inner, rows in enumerate(block):
            place = outer % matrices[0], inner % matrices[1]
            squares[place] += np.einsum("rc,rc->c", rows, rows)
    count = np.prod(values.shape[:-1]) // np.prod(matrices)
    return squares.reshape(-1, values.shape[-1]), np.array([float(count)])


def expert_sums(values: Any, chosen: Any, experts: int) -> tuple[Floats, Floats]:
    """Sums of squares of each expert's rows, and how many there were.

    `chosen`, [tokens, used], are the experts of each token; `values`, [tokens, used or 1, columns],
    what each of them gets.
    """
    squares = np.zeros((experts, values.shape[-1]))
    routed = (chosen[:, :, None] == np.arange(experts)).astype(np.float32)
    for place in range(values.shape[1]):
        # Which experts get these rows, and how often: all of them, where they share one.
        times = routed[:, place :: values.shape[1]].sum(axis=1)
        squares += times.T @ np.square(values[:, place])
    return squares, routed.sum(axis=(0, 1), dtype=np.float64)
