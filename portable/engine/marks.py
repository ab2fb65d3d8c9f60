"""Points of a prompt that others can go on from, where a cache cannot be shortened; pure.

A sliding window forgets what it no longer looks at, and a recurrent state knows its last token
only. So what cannot be undone is copied at some points, as llama-server's context checkpoints are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portable.engine.backend import State

# ggml's kernels take so many rows of a batch at a time and round those left over otherwise, and a
# row that is alone most of all. Measured: up to 1.4 of a logit in SmolLM2 Q4_1, 0.07 in Q4_K_M.
GROUP = 4
# Tokens: fewer are read again in no time, so no copy is made for them.
LEAST = 64
MOST_A_SLOT = 8


@dataclass(slots=True, eq=False)
class Mark:
    """What a slot could not give back when it held its first `count` tokens."""

    count: int
    state: State
    used_at: int = 0


def points(tokens: list[int], is_control: Callable[[int], bool]) -> set[int]:
    """Where reading a prompt pauses for a mark: its system prompt's end, and its own.

    Messages begin and end with control tokens. The next turn may write what stands behind the last
    one differently: templates open an answer otherwise than they repeat it.
    """
    control = [at for at, token in enumerate(tokens) if is_control(token)]
    wanted = {at for at in control if at >= LEAST}
    ends = {min(wanted, default=0), max(wanted, default=0), len(tokens) - 2}
    found: list[int] = []
    for at in sorted(end // GROUP * GROUP for end in ends):
        if at >= LEAST + (found[-1] if found else 0):
            found.append(at)
    return set(found)


def surplus(marks: Iterable[Mark], most: int) -> set[Mark]:
    """Which marks go for all to fit `most` bytes: the longest unused. One is in many slots."""
    kept, going = 0, set()
    for mark in sorted(set(marks), key=lambda mark: -mark.used_at):
        kept += mark.state.nbytes
        if kept > most:
            going.add(mark)
    return going
