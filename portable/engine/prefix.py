"""Which cached tokens can be reused and what is evicted; pure, moves no cell itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portable.engine.marks import GROUP, MOST_A_SLOT, Mark, surplus

if TYPE_CHECKING:
    from portable.engine.backend import State


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


@dataclass(frozen=True, slots=True)
class Restore:
    """Bring a slot back to its first `mark.count` tokens."""

    slot: int
    mark: Mark


Move = Keep | Copy | Restore
Intact = Callable[[int, int], bool]


@dataclass(slots=True)
class Slot:
    """One sequence id of llama.cpp's memory: the tokens that it holds, and in which cells.

    The first `chunked` tokens were read in whole chunks.
    """

    id: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0
    marks: list[Mark] = field(default_factory=list)
    chunked: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """The slot whose first `count` tokens begin a prompt; `in_place`: it may be taken over.

    `mark` if that takes one. Some slot begins with `shared` tokens of the prompt, reached or not.
    """

    source: Slot | None
    count: int
    in_place: bool
    mark: Mark | None = None
    shared: int = 0


class PrefixCache:
    """Slots, what they hold and who uses them; the engine carries out the moves.

    `intact(slot, count)` says whether the first tokens of a slot can still be continued. Where not,
    marks help, which take `mark_bytes` at most. With a `chunk` only tokens that were read in whole
    chunks of that size are shared.
    `cells` is the size of the cache in tokens. A cell that several slots share by `Copy` counts
    once, as in llama.cpp, and is free when the last of them lets it go.
    """

    def __init__(
        self,
        slots: int,
        cells: int,
        *,
        reuse: bool = True,
        intact: Intact = lambda *_: True,
        mark_bytes: int = 0,
        chunk: int = 0,
    ) -> None:
        self.slots = [Slot(i) for i in range(slots)]
        self.cells = cells
        self.reuse = reuse
        self.mark_bytes = mark_bytes
        self.chunk = chunk
        self._intact = intact
        self._clock = 0
        self._next_cell = 0
        self._holders: dict[int, int] = {}

    @property
    def free_cells(self) -> int:
        return self.cells - len(self._holders)

    @property
    def has_idle_slot(self) -> bool:
        return any(not slot.busy for slot in self.slots)

    def match(self, tokens: list[int]) -> Match:
        """The longest prefix of a prompt that some slot holds, as far as it can be taken over."""
        best, count, mark, longest = None, 0, None, 0
        for slot in self.slots if self.reuse else ():
            shared = common_prefix(slot.tokens, tokens)
            longest = max(longest, shared)
            # Among equals an idle slot is better: it is used in place, without a second copy.
            if reusable(shared, len(tokens)) < count or not shared:
                continue
            most = min(shared, len(tokens) - 2)
            if self.chunk:
                most = min(most, slot.chunked) // self.chunk * self.chunk
            length, found = resume(slot, most, self._intact)
            if length > count or (length == count and length and not slot.busy):
                best, count, mark = slot, length, found
        idle = best is not None and not best.busy
        # Taken over when little else is lost, or when the same prompt comes again.
        little = best is not None and 2 * count >= len(best.tokens)
        again = count == reusable(len(tokens), len(tokens))
        return Match(best, count, idle and (little or again), mark, longest)

    def acquire(self, tokens: list[int], match: Match) -> tuple[int, list[Move]]:
        """A slot that holds the match for a sequence, and the moves to get there."""
        source, count = match.source, match.count
        target = source if match.in_place and source else self._idle_slot(source)
        if target is source:
            moves = self._go_back(target, count, match.mark)
        else:
            moves = self._shorten(target, 0)
            if source:
                moves.append(self._share(source, target, count))
                moves += [Restore(target.id, match.mark)] if match.mark else []
        target.busy = True
        self._touch(target)
        return target.id, moves

    def extend(self, slot: int, tokens: list[int]) -> None:
        """These tokens were decoded into the slot."""
        held, first = self.slots[slot], self._next_cell
        if held.chunked == len(held.tokens) and len(tokens) == self.chunk:
            held.chunked += self.chunk
        self._next_cell += len(tokens)
        held.tokens += tokens
        held.cells += range(first, self._next_cell)
        self._holders |= dict.fromkeys(range(first, self._next_cell), 1)

    def release(self, slot: int, *, keep: bool = True) -> list[Move]:
        """The sequence is done; its tokens stay for the next turn unless `keep` is False."""
        held = self.slots[slot]
        held.busy = False
        self._touch(held)
        return [] if keep and self.reuse else self._shorten(held, 0)

    def vacate(self, need: int) -> tuple[int, list[Move]]:
        """An idle slot, emptied, and `need` free cells as far as dropping others gives them."""
        slot = self._idle_slot(None)
        return slot.id, self._shorten(slot, 0) + self.evict(need)

    def fill(self, slot: int, tokens: list[int]) -> None:
        """These tokens were put into an empty slot, for whoever begins with them."""
        self.extend(slot, tokens)
        self._touch(self.slots[slot])

    def shorten(self, slot: int, count: int) -> list[Move]:
        """Forget what a slot holds beyond `count` tokens; whoever uses it goes on using it."""
        return self._shorten(self.slots[slot], count)

    def go_back(self, slot: int) -> tuple[int, list[Move]]:
        """What a slot holds is spoilt: the tokens that its last mark still gives, and the moves."""
        held = self.slots[slot]
        mark = max(held.marks, key=lambda mark: mark.count, default=None)
        count = mark.count if mark else 0
        return count, self._go_back(held, count, mark)

    def mark(self, slot: int, state: State) -> None:
        """All that a slot holds now can be gone back to, by this state."""
        held = self.slots[slot]
        held.marks.append(Mark(len(held.tokens), state, self._clock))
        oldest = sorted(held.marks, key=lambda mark: mark.used_at)
        going = {*oldest[:-MOST_A_SLOT]}
        going |= surplus((mark for slot in self.slots for mark in slot.marks), self.mark_bytes)
        for each in self.slots:
            each.marks = [mark for mark in each.marks if mark not in going]

    def within_reach(self, spare: Slot | None = None) -> int:
        """Cells that would be free if all idle slots but `spare` were dropped."""
        staying = (slot for slot in self.slots if slot.busy or slot is spare)
        return self.cells - len({cell for slot in staying for cell in slot.cells})

    def evict(self, need: int, spare: Slot | None = None) -> list[Move]:
        """Drop idle slots but `spare`, the longest unused first, until `need` cells are free."""
        idle = [slot for slot in self.slots if slot.tokens and not slot.busy and slot is not spare]
        moves: list[Move] = []
        for slot in sorted(idle, key=lambda slot: slot.used_at):
            if self.free_cells >= need:
                break
            moves += self._shorten(slot, 0)
        return moves

    def _idle_slot(self, source: Slot | None) -> Slot:
        """The best slot to overwrite: an empty one, else the longest unused."""
        idle = [slot for slot in self.slots if not slot.busy]
        return min(idle, key=lambda slot: (bool(slot.tokens), slot is source, slot.used_at))

    def _share(self, source: Slot, target: Slot, count: int) -> Move:
        target.tokens, target.cells = source.tokens[:count], source.cells[:count]
        target.marks = [mark for mark in source.marks if mark.count <= count]
        target.chunked = min(source.chunked, count)
        for cell in target.cells:
            self._holders[cell] += 1
        return Copy(source.id, target.id, count)

    def _shorten(self, slot: Slot, count: int) -> list[Move]:
        for cell in slot.cells[count:]:
            self._holders[cell] -= 1
            if not self._holders[cell]:
                del self._holders[cell]
        slot.tokens, slot.cells = slot.tokens[:count], slot.cells[:count]
        slot.marks = [mark for mark in slot.marks if mark.count <= count]
        slot.chunked = min(slot.chunked, count)
        return [Keep(slot.id, count)]

    def _go_back(self, slot: Slot, count: int, mark: Mark | None) -> list[Move]:
        moves = self._shorten(slot, count)
        return [Restore(slot.id, mark)] if mark else moves

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used_at = self._clock
        for mark in slot.marks:
            mark.used_at = self._clock


def in_order(moves: list[Move]) -> list[Move]:
    """The same moves, slots brought back last, and only if nothing else becomes of them.

    What is brought back takes cells that other windows have left, which until then may be copied.
    """
    back: dict[int, Move] = {}
    others: list[Move] = []
    for move in moves:
        if isinstance(move, Restore):
            back[move.slot] = move
        else:
            others.append(move)
            if isinstance(move, Keep):
                back.pop(move.slot, None)
    return [*others, *back.values()]


def reusable(shared: int, prompt: int) -> int:
    """How many of `shared` tokens a prompt of so many takes over.

    At least two are read again, in whole groups: a token is then computed among others as when the
    prompt came for the first time, and the same request gives the same text. Exact for types
    whose kernels round all rows of a batch alike (SmolLM2's Q4_1), nearly so for the rest.
    """
    return max(0, min(shared, prompt - 2)) // GROUP * GROUP


def resume(slot: Slot, most: int, intact: Intact) -> tuple[int, Mark | None]:
    """Where a slot can be continued within its first `most` tokens, and the mark that it takes."""
    count = max(0, most) // GROUP * GROUP
    if intact(slot.id, count):
        return count, None
    if len(slot.tokens) <= most and intact(slot.id, len(slot.tokens)):
        return len(slot.tokens), None
    reached = [mark for mark in slot.marks if mark.count <= most]
    mark = max(reached, key=lambda mark: mark.count, default=None)
    return (mark.count, mark) if mark else (0, None)


def common_prefix(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix; halving, because lists compare at the speed of C."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
