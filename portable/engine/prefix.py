"""Which cached tokens can be reused and what is evicted; pure, moves no cell itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the first `count` tokens of a slot, drop the rest."""

    slot: int
    count: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Share the first `count` tokens of slot `source` with the empty slot `slot`."""

    source: int
    slot: int
    count: int


Move = Keep | Copy


@dataclass(slots=True)
class Slot:
    """One sequence id of llama.cpp's memory and the tokens that it holds."""

    id: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0


class PrefixCache:
    """Slots, what they hold and who uses them; the engine carries out the moves.

    `cells` is the size of the cache in tokens. Cells shared by `Copy` are counted in each slot that
    holds them: the count is never too low, and a shared prefix may be evicted a little early.
    """

    def __init__(self, slots: int, cells: int, *, reuse: bool = True) -> None:
        self.slots = [Slot(i) for i in range(slots)]
        self.cells = cells
        self._reuse = reuse
        self._clock = 0

    @property
    def free_cells(self) -> int:
        return self.cells - sum(len(slot.tokens) for slot in self.slots)

    @property
    def has_idle_slot(self) -> bool:
        return any(not slot.busy for slot in self.slots)

    def acquire(self, tokens: list[int]) -> tuple[int, int, list[Move]]:
        """A slot for a sequence, how many of its tokens it will hold, the moves to get there.

        At least one token is left to decode: its logits say what comes next.
        """
        source, count = self._longest_match(tokens)
        target = self._target(source, count, len(tokens))
        moves: list[Move] = []
        if target is source:
            moves.append(Keep(target.id, count))
        else:
            moves.append(Keep(target.id, 0))
            if count and source is not None:
                moves.append(Copy(source.id, target.id, count))
        target.tokens = tokens[:count]
        target.busy = True
        self._touch(target)
        return target.id, count, moves

    def extend(self, slot: int, tokens: list[int]) -> None:
        """These tokens were decoded into the slot."""
        self.slots[slot].tokens += tokens

    def release(self, slot: int, *, keep: bool = True) -> list[Move]:
        """The sequence is done; its tokens stay for the next turn unless `keep` is False."""
        held = self.slots[slot]
        held.busy = False
        self._touch(held)
        if keep and self._reuse:
            return []
        held.tokens = []
        return [Keep(slot, 0)]

    def evict(self, need: int) -> list[Move]:
        """Drop idle slots, the longest unused first, until `need` cells are free."""
        moves: list[Move] = []
        idle = (slot for slot in self.slots if not slot.busy and slot.tokens)
        for slot in sorted(idle, key=lambda slot: slot.used_at):
            if self.free_cells >= need:
                break
            slot.tokens = []
            moves.append(Keep(slot.id, 0))
        return moves

    def _longest_match(self, tokens: list[int]) -> tuple[Slot | None, int]:
        best: Slot | None = None
        count = 0
        for slot in self.slots if self._reuse else ():
            length = common_prefix(slot.tokens, tokens[:-1])
            # Among equals an idle slot is better: it is used in place, without a second copy.
            if length > count or (length == count and length and not slot.busy):
                best, count = slot, length
        return best, count

    def _target(self, source: Slot | None, count: int, length: int) -> Slot:
        """The matching slot itself if it holds little else or the same prompt, else an idle one."""
        if source and not source.busy and (2 * count >= len(source.tokens) or count == length - 1):
            return source
        idle = [slot for slot in self.slots if not slot.busy]
        return min(idle, key=lambda slot: (bool(slot.tokens), slot is source, slot.used_at))

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock


def common_prefix(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix."""
    if a[: len(b)] == b:
        return len(b)
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
