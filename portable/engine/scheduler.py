"""Which tokens go into the next decode; pure: no llama_cpp, no thread, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portable.engine.config import CHUNK, EngineConfig
from portable.engine.marks import GROUP, LEAST
from portable.engine.prefix import Intact, Move, PrefixCache, common_prefix, in_order
from portable.engine.sequence import Sequence, Slice

if TYPE_CHECKING:
    from portable.engine.backend import State

# Tokens: fewer are read sooner than waited for.
_WORTH_WAITING = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: first the moves in the cache, then the slices in one decode."""

    moves: list[Move]
    slices: list[Slice]

    @property
    def answering(self) -> int:
        """Sequences that get their next token."""
        return sum(part.count == 1 for part in self.slices)

    @property
    def reading(self) -> int:
        """Prompt tokens."""
        return sum(part.count for part in self.slices if part.count > 1)

    @property
    def depth(self) -> int:
        """Position of the deepest slice: its tokens look at so many others."""
        return max(part.start for part in self.slices)

    @property
    def size(self) -> int:
        """Tokens of all kinds, drafts included."""
        return sum(part.size for part in self.slices)


class Scheduler:
    """Running sequences first, one token each, then prompt chunks up to the step's budget.

    Admission is first come, first served. When the cache is full, idle prefixes go first; then the
    newest running sequence steps back into the queue and is read again later: no answer is lost.
    """

    def __init__(
        self,
        config: EngineConfig,
        cells: int,
        *,
        intact: Intact = lambda *_: True,
        mark_bytes: int = 0,
    ) -> None:
        self.prefix = PrefixCache(
            config.slots,
            cells,
            reuse=config.prefix_cache,
            intact=intact,
            mark_bytes=mark_bytes,
            chunk=CHUNK * config.deterministic,
        )
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._config = config
        self._moves: list[Move] = []
        # Whoever stepped back for want of room is not let in again before a step went well.
        self._relieving = False

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def may_admit(self) -> bool:
        """Whether the next step may begin to read a prompt."""
        return bool(self.waiting) and self.prefix.has_idle_slot

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self, shared_budget: int) -> Plan:
        """The next step, as large as budget and cells allow; empty only when nothing waits.

        `shared_budget` prompt tokens are read at most while somebody is being answered.
        """
        self._admit()
        answering = self._decodes()
        reading = self._prompts(answering, shared_budget if answering else self._config.step_tokens)
        moves, self._moves = self._moves, []
        return Plan(in_order(moves), reading + answering)

    def commit(self, slices: list[Slice]) -> None:
        """The step was decoded: its tokens lie in the cache now."""
        self._relieving = False
        for part in slices:
            part.sequence.cached += part.count
            self.prefix.extend(part.sequence.slot, part.tokens)

    def finish(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take an ended sequence out; its cells are free, or kept for its next turn."""
        if sequence.is_running:
            self._moves += self.prefix.release(sequence.slot, keep=keep)
            self.running.remove(sequence)
            sequence.slot = -1
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def relieve(self) -> bool:
        """The cache turned out to be full: give up an idle prefix, else the newest sequence."""
        moves = self.prefix.evict(self.prefix.free_cells + 1)
        self._moves += moves
        self._relieving = not moves
        return bool(moves) or self.preempt_newest()

    def vacate(self, cells: int) -> tuple[int, list[Move]] | None:
        """An empty slot and free cells, and all moves to get there; None if there is no room.

        What is put there is nobody's yet, but does not take the room of those who run.
        """
        need = cells + sum(s.pending for s in self.running)
        if not self.prefix.has_idle_slot or self.prefix.within_reach() < need:
            return None
        slot, moves = self.prefix.vacate(need)
        moves, self._moves = in_order(self._moves + moves), []
        return slot, moves

    def trim(self, sequence: Sequence) -> None:
        """What lies in the cache behind the sequence's own tokens was a wrong guess."""
        self._moves += self.prefix.shorten(sequence.slot, sequence.cached)

    def rewind(self, sequence: Sequence) -> None:
        """What the cache has of this sequence is spoilt: it is read again from its last mark."""
        sequence.cached, moves = self.prefix.go_back(sequence.slot)
        self._moves += moves

    def lose(self, slots: set[int]) -> None:
        """Nothing is left of what these slots held: who uses them is read again from the start."""
        for sequence in self.running:
            if sequence.slot in slots:
                sequence.cached = 0
        for slot in slots:
            self._moves += self.prefix.shorten(slot, 0)

    def mark(self, sequence: Sequence, state: State) -> None:
        """Others can go on from all that was read of this sequence, by `state`."""
        self.prefix.mark(sequence.slot, state)

    def preempt_newest(self) -> bool:
        """The newest running sequence steps back to the queue's head; False when it runs alone."""
        if len(self.running) < 2:
            return False
        newest = self.running.pop()
        self._moves += self.prefix.release(newest.slot, keep=False)
        newest.slot, newest.cached = -1, 0
        self.waiting.appendleft(newest)
        return True

    def _admit(self) -> None:
        """Give slots to waiting sequences while their prompts fit beside those being read."""
        for sequence in list(self.waiting):
            if not self.prefix.has_idle_slot or (self._relieving and self.running):
                return
            match = self.prefix.match(sequence.tokens)
            if self._is_being_read(sequence, match.count):
                continue
            self._pause(sequence, match.shared, match.count)
            need = sum(s.pending for s in self.running) + len(sequence.tokens) - match.count
            if self.running and self.prefix.within_reach(match.source) < need:
                return
            self._moves += self.prefix.evict(need, match.source)
            self.waiting.remove(sequence)
            sequence.slot, moves = self.prefix.acquire(sequence.tokens, match)
            sequence.cached = match.count
            sequence.reused = max(sequence.reused, min(match.count, sequence.n_prompt))
            self._moves += moves
            self.running.append(sequence)

    def _is_being_read(self, sequence: Sequence, held: int) -> bool:
        """Somebody is just reading more of this prompt than any slot holds: better share that."""
        if not self.prefix.reuse:
            return False
        prompt = sequence.tokens
        for reader in (s for s in self.running if s.pending > 1):
            shared = common_prefix(reader.tokens, prompt)
            if reader.cached < shared and shared >= held + _WORTH_WAITING:
                self._pause(reader, min(shared, len(prompt) - 2), reader.cached)
                return True
        return False

    def _pause(self, sequence: Sequence, at: int, after: int) -> None:
        """Leave a mark in a prompt where another one parts from it, if marks are needed."""
        at = min(at, len(sequence.tokens) - 2) // GROUP * GROUP
        near = any(0 <= at - other < LEAST for other in (after, *sequence.pauses))
        if self.prefix.mark_bytes and at > after and not near:
            sequence.pauses.add(at)

    def _decodes(self) -> list[Slice]:
        """One token and the draft of each sequence that answers.

        When cells run out the drafts go first, then the newest sequence steps back.
        """
        answering = [s for s in self.running if s.pending == 1]
        if self.prefix.free_cells < sum(1 + len(s.draft) for s in answering):
            for sequence in answering:
                sequence.draft = ()
        while not self._make_room(sum(s.pending == 1 for s in self.running)):
            if not self.preempt_newest():
                break
        return [Slice(s, s.cached, 1, s.draft) for s in self.running if s.pending == 1]

    def _prompts(self, answering: list[Slice], budget: int) -> list[Slice]:
        """Prompt chunks within `budget` tokens and the free cells, whole groups of rows first.

        The oldest prompt gets half, so that it always moves on; then those that need least, so that
        a short prompt does not wait behind a long one.
        """
        reading = [s for s in self.running if s.pending > 1]
        if not reading:
            return []
        if self.prefix.chunk:
            return self._whole_chunks(reading, budget)
        taken = sum(part.size for part in answering)
        budget = min(budget, sum(s.readable for s in reading))
        self._make_room(taken + budget)
        left = min(budget, self.prefix.free_cells - taken)
        counts = dict.fromkeys(reading, 0)
        counts[reading[0]] = min(reading[0].readable, (left + 1) // 2)
        left -= counts[reading[0]]
        for sequence in sorted(reading, key=lambda s: s.pending):
            more = min(sequence.readable - counts[sequence], left)
            counts[sequence] += more
            left -= more
        whole = {s: n if n == s.readable else n // GROUP * GROUP for s, n in counts.items()}
        if not any(whole.values()):
            whole = counts
        chunks = [Slice(s, s.cached, count) for s, count in whole.items() if count > 0]
        return sorted(chunks, key=lambda part: part.count % GROUP > 0)

    def _whole_chunks(self, reading: list[Sequence], budget: int) -> list[Slice]:
        """One chunk of each prompt, the oldest whatever the budget; an answer token by token again.

        Cut where a prompt would be cut if it were alone.
        """
        slices: list[Slice] = []
        for s in reading:
            end = min(s.n_prompt, (s.cached // self.prefix.chunk + 1) * self.prefix.chunk)
            size = max(1, end - s.cached)
            if not slices or size <= budget:
                slices.append(Slice(s, s.cached, size))
            budget -= size
        return slices

    def _make_room(self, need: int) -> bool:
        """Evict idle prefixes until `need` cells are free; False when that is not enough."""
        if self.prefix.free_cells < need:
            self._moves += self.prefix.evict(need)
        return self.prefix.free_cells >= need
