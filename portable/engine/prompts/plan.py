"""Which prefixes are saved on disk and which come back; pure, reads and writes nothing.

A state of `n` tokens serves every prompt that begins with some of them. One that is longer than the
model's window has lost what the others look at, and serves those that begin with all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from portable.engine.marks import Mark
from portable.engine.prefix import Intact, Slot, common_prefix, resume, reusable

Key = TypeVar("Key")

# Tokens: reading fewer costs less than a file does.
LEAST_SAVED, LEAST_LEFT, LEAST_RESTORED = 256, 64, 128
# Shares of a state: it is written again when so much is new. At the end there is no later time.
_NEW, _NEW_AT_END = 0.1, 0.02


@dataclass(frozen=True, slots=True)
class Candidate:
    """The first `count` tokens of a slot, which can be gone on from, with the `mark` if need be.

    `age`: how many uses of slots lie behind the last one of this slot.
    """

    slot: Slot
    count: int
    age: int
    mark: Mark | None

    @property
    def tokens(self) -> list[int]:
        return self.slot.tokens[: self.count]


def worth_saving(
    slots: Collection[Slot],
    saved: Collection[list[int]],
    *,
    window: int,
    intact: Intact,
    at_end: bool = False,
) -> Candidate | None:
    """What to save next: a beginning that several prompts share, else a whole conversation.

    `at_end` the latest one is saved even if little is new: somebody may go on with it.
    """
    for candidate in _candidates(slots, intact):
        last = at_end and candidate.age == 0
        least, share = (LEAST_LEFT, _NEW_AT_END) if last else (LEAST_SAVED, _NEW)
        tokens = candidate.tokens
        held = max((_shared(tokens, state, window) for state in saved), default=0)
        new = len(tokens) - held
        if len(tokens) >= LEAST_SAVED and new >= max(least, share * len(tokens)):
            return candidate
    return None


def worth_restoring(
    tokens: list[int], held: int, saved: Mapping[Key, list[int]], window: int
) -> tuple[Key, int] | None:
    """The state that serves most of a prompt, and how much; the smallest among equals.

    None unless that is well more than the `held` tokens that lie in memory.
    """
    best, most = None, held + LEAST_RESTORED - 1
    for key, state in sorted(saved.items(), key=lambda item: len(item[1])):
        count = _shared(tokens, state, window)
        if len(state) <= window:
            count = reusable(count, len(tokens))
        elif count > len(tokens) - 2:
            continue
        if count > most:
            best, most = key, count
    return None if best is None else (best, most)


def superseded(tokens: list[int], saved: Mapping[Key, list[int]], window: int) -> Iterable[Key]:
    """States that a longer one makes useless: a conversation's earlier turns.

    A short beginning stays: it may be everybody's, and comes back sooner than the long one.
    """
    if len(tokens) > window:
        return []
    return [
        key
        for key, state in saved.items()
        if len(tokens) > len(state) >= len(tokens) / 2 and tokens[: len(state)] == state
    ]


def _shared(tokens: list[int], state: list[int], window: int) -> int:
    """How many of these tokens a state stands for; few count as none."""
    if tokens[:LEAST_RESTORED] != state[:LEAST_RESTORED]:
        return 0
    count = common_prefix(tokens, state)
    return count if len(state) <= window or count == len(state) else 0


def _candidates(slots: Collection[Slot], intact: Intact) -> Iterator[Candidate]:
    latest = sorted((s for s in slots if s.tokens), key=lambda slot: -slot.used_at)

    def candidate(slot: Slot, most: int) -> Candidate:
        count, mark = resume(slot, most, intact)
        return Candidate(slot, count, latest[0].used_at - slot.used_at, mark)

    shared = [
        candidate(slot, common_prefix(slot.tokens, other.tokens))
        for at, slot in enumerate(latest)
        for other in latest[at + 1 :]
    ]
    yield from sorted(shared, key=lambda candidate: -candidate.count)
    for slot in latest:
        yield candidate(slot, len(slot.tokens))
        # Nobody else can begin with a part of that, so what many begin with is saved beside it.
        if slot.marks:
            yield candidate(slot, slot.marks[0].count)
