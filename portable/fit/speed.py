"""Tokens a second and the time to the first one, from what a token is and how fast that goes. Pure.

A token's time is that of its matrix products, of attention to all tokens before it, and of the many
small operations between these; a prompt is read in batches, which multiply faster.
"""

from __future__ import annotations

from collections.abc import Mapping

from portable.engine.config import ENGINE
from portable.engine.kernels import Attention, Matrix, Operation, Sum, Timed
from portable.fit.work import Work
from portable.tensortype import BY_ID

BATCH: int = ENGINE["step_tokens"]
# Norms, rotations, additions, gates and stores of one layer, and where its products wait for all
# threads: counted in Qwen2's graph.
_SMALL = 24
# Tokens that attention is timed with; its time grows with them, and with the batch.
_CELLS = 4096
_BATCH_CELLS = 1024
# Seconds a token outside llama.cpp: scheduling, sampling, text.
_STEP = 0.0004
_KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type
Times = Mapping[Operation, Timed]


def operations(work: Work, kv_type: str) -> list[Operation]:
    """What has to be timed for this model."""
    found: list[Operation] = []
    for vectors in (1, BATCH):
        found += [matrix(kind, vectors) for kind in (work.kinds if vectors == 1 else work.matrices)]
        found.append(Sum(work.width, vectors))
        if timed := _attention(work, kv_type, vectors):
            found.append(timed)
    return found


def decode_seconds(work: Work, times: Times, kv_type: str, depth: float) -> float:
    """One token, after `depth` others."""
    products = _products(work.matrices, times, 1) + _products(work.output, times, 1)
    looked = sum(min(depth, window or depth) for window in work.windows) / _CELLS
    timed = _attention(work, kv_type, 1)
    attention = looked * times[timed].seconds if timed else 0.0
    small = work.layers * _SMALL * times[Sum(work.width)].seconds
    return products + attention + small + _STEP


def prompt_seconds(
    work: Work, times: Times, kv_type: str, tokens: float, depth: float = 0
) -> float:
    """A prompt behind `depth` other tokens, until the first token of the answer is there."""
    products = _products(work.matrices, times, BATCH) * tokens / BATCH
    products += _products(work.output, times, 1)
    # A token looks back at half of the prompt on average, and at no more than the window.
    back = depth + tokens / 2
    looked = sum(tokens * min(back, window or back) for window in work.windows)
    timed = _attention(work, kv_type, BATCH)
    attention = looked / (BATCH * _BATCH_CELLS) * times[timed].seconds if timed else 0.0
    small = work.layers * _SMALL * times[Sum(work.width, BATCH)].seconds * tokens / BATCH
    return products + attention + small + _STEP


def _products(values: Mapping[tuple[int, int], float], times: Times, vectors: int) -> float:
    return sum(count * times[matrix(kind, vectors)].seconds for kind, count in values.items())


def matrix(kind: tuple[int, int], vectors: int) -> Matrix:
    type, columns = kind
    return Matrix(type, columns, BY_ID[type].row_bytes(columns), vectors)


def _attention(work: Work, kv_type: str, vectors: int) -> Attention | None:
    one = work.attention
    if one is None:
        return None
    cells = _CELLS if vectors == 1 else _BATCH_CELLS
    type = _KV_TYPES[kv_type]
    return Attention(one.heads, one.groups, one.key, one.value, cells, type, vectors)
