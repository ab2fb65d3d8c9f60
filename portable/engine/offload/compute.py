"""What llama.cpp reserves to compute a step in, estimated from the shape alone. Pure."""

from __future__ import annotations

from portable.engine.offload.shape import Shape
from portable.engine.offload.wish import Wish

_F32, _F16 = 4, 2


def estimate(shape: Shape, wish: Wish, cells: int, *, output: bool, moved: int = 0) -> int:
    """Bytes on one device; more where the `output` lies, which makes a row of logits a token.

    A GPU that computes long prompts for layers of the host has room for a matrix `moved` to it.
    """
    rows = wish.rows
    masks = rows * cells * (_F16 if wish.flash else _F32)
    ends = (wish.outputs or rows) * shape.vocabulary * _F32 if output else 0
    feed = max(1, shape.experts_used) * shape.width * 3 + 3 * shape.feed_forward
    inner = rows * (4 * shape.width + feed) * _F32
    scores = 0 if wish.flash else 2 * rows * cells * shape.heads * _F32
    return int(masks + max(ends, inner + scores) + rows * shape.width * _F32) + moved
