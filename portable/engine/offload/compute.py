"""What llama.cpp reserves to compute a step in, estimated from the shape alone. Pure.

Its allocator lets tensors take the place of those that are no longer needed, so that the largest
moment counts. There are two: inside a layer, and at the logits behind the last one. A row (a token
of the step) takes there, in numbers of 4 bytes,

    inside a layer   5 times the width for what runs past the layer and for its norms, and
                     7 times where experts are summed up; besides, whichever is more:
                       feed forward: gate, up and their product, three times its length, once for
                       each expert used; experts' results twice, one of the width for each;
                       attention: queries and keys, and a score for each head and cell without
                       flash attention;
    at the logits    one for each word of the vocabulary, and 2 times the width.

The mask of the attention has 2 bytes, 4 without flash attention, for each row and cell, and is
there twice where some layers look back less far than others. `tests/test_offload_shape.py` compares
all of this with what llama.cpp reserves for models of common sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from portable.engine.offload.shape import Shape
from portable.engine.offload.wish import Wish

_F32, _F16 = 4, 2


@dataclass(frozen=True, slots=True)
class Work:
    """What one device computes: `layers` at all, the `output`, or with a matrix `moved` to it.

    llama.cpp moves weights of the host, one after the other, to the first GPU of this machine for
    long prompts, and the host then computes no layer of them. `moved` is the largest, in bytes.
    """

    layers: bool
    output: bool
    moved: int = 0


def estimate(shape: Shape, wish: Wish, seen: int, work: Work) -> int:
    """Bytes of a device's compute buffer, when a token may look back at `seen` cells."""
    rows = min(wish.rows, seen)
    if shape.mask_kinds == 0:
        seen = rows  # a text is seen whole, or not again
    taken = _masks(shape, wish, rows, seen) + 2 * rows * shape.width * _F32
    if work.layers or work.moved:
        taken += rows * _F32 * (3 * shape.width + _inner(shape, wish, seen))
    if work.output:
        logits = min(rows, wish.outputs or rows) * shape.logits
        taken = max(taken, (logits + 2 * rows * shape.width) * _F32)
    return taken + work.moved


def logits(shape: Shape, wish: Wish) -> int:
    """Bytes of the host's memory in which rows of logits are handed out."""
    return (wish.outputs or wish.sequences) * shape.logits * _F32


def _masks(shape: Shape, wish: Wish, rows: int, seen: int) -> int:
    return max(1, shape.mask_kinds) * rows * seen * (_F16 if wish.flash else _F32)


def _inner(shape: Shape, wish: Wish, seen: int) -> int:
    """Numbers that a row takes inside a layer, beside what runs past it."""
    used = shape.experts_used
    feed = 3 * shape.feed_forward
    summed = 0
    if used:
        feed = max(feed, 3 * used * shape.expert_width, 2 * used * shape.width)
        summed = 2 * shape.width
    scores = 0 if wish.flash else shape.heads * seen
    return summed + max(feed, shape.attention + scores)
