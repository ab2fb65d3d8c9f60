"""A second, small model that guesses what the large one says; keeps its own cache in step.

It is asked greedily: of all that may come the likeliest is right most often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from portable.engine.backend import Backend
from portable.engine.config import EngineConfig
from portable.engine.costs import StepCosts
from portable.engine.pace import Pace
from portable.engine.prefix import Copy, Keep, Move, PrefixCache, common_prefix
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.engine.speculation.drafter import Guess, Terms
from portable.engine.speculation.record import Record
from portable.engine.threads import Threads

# Kinds of evidence: at least so likely by the draft model's own word, and how often that is right.
_CERTAIN = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
_PRIORS = (0.15, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95)
# Before a guess is made its kind is not known: what is usual, and how fast that changes.
_USUAL, _CHANGE = 0.7, 0.05
# Tokens: more than these are read beforehand, and not as part of guessing.
_BEHIND = 16


@dataclass(slots=True)
class _Draft:
    """What is guessed for one sequence: `mirror` are its tokens and the guesses behind them."""

    mirror: Sequence
    most: int
    kinds: list[int] = field(default_factory=list)
    chance: float = 1.0


class DraftModel:
    """A `Drafter`. `backend` is the small model, which keeps parts.

    `vocabulary` is the main model's: ids beyond it are never guessed. Nor is anything for texts
    longer than what this model was trained for, `longest` tokens. It takes as many `threads` as the
    main model's last step.
    """

    name = "the draft model"

    def __init__(
        self,
        backend: Backend,
        vocabulary: int,
        config: EngineConfig,
        longest: int,
        clock: Callable[[], float] = time.perf_counter,
        threads: Threads | None = None,
    ) -> None:
        self.costs = StepCosts()
        self.record = Record(_PRIORS)
        self.backend = backend
        self._shared = min(vocabulary, backend.vocabulary)
        self._longest = min(longest, backend.context)
        self._clock = clock
        self._threads = threads
        self._prefix = PrefixCache(config.slots, backend.cells, intact=backend.is_intact)
        # The other half is the main model's.
        self._pace = Pace(config.step_seconds / 2, config.step_tokens)
        self._mirrors: dict[Sequence, Sequence] = {}
        self._reading: list[Sequence] = []  # prompts that are worth reading to their end
        self._behind = max(1, min(_BEHIND, config.step_tokens // config.slots))
        self._usual = _USUAL
        self._unpaid = 0.0

    def close(self) -> None:
        self.backend.close()

    def retain(self, running: Iterable[Sequence]) -> None:
        """What the others read stays for those who begin with it, as long as there is room."""
        gone = self._mirrors.keys() - set(running)
        for sequence in gone:
            self._move(self._prefix.release(self._mirrors.pop(sequence).slot))

    def propose(self, asked: Mapping[Sequence, int], terms: Terms) -> dict[Sequence, Guess]:
        self.record.pass_step(1)
        self.record.add(-self._unpaid)
        self._unpaid = 0.0
        if not (self.record.may_guess and self._is_worth_it(1.0, len(asked), terms)):
            return {}
        affordable = self.record.affords(self._price(len(asked), terms) / terms.plain)
        drafts = {}
        for sequence, most in asked.items():
            if mirror := self._in_step(sequence, most):
                drafts[sequence] = _Draft(mirror, min(most, affordable))
        self._catch_up([draft.mirror for draft in drafts.values()], terms)
        started = self._clock()
        self._guess([d for d in drafts.values() if d.mirror.pending <= self._behind], terms)
        # Paid when it is known what these guesses brought.
        self._unpaid = (self._clock() - started) / terms.plain
        return {
            sequence: Guess(tuple(draft.mirror.tokens[-n:]), tuple(draft.kinds), self.record)
            for sequence, draft in drafts.items()
            if (n := len(draft.kinds))
        }

    def _in_step(self, sequence: Sequence, most: int) -> Sequence | None:
        """The sequence as this model has read it: what it held beyond that is dropped."""
        tokens = sequence.tokens
        if len(tokens) + most >= self._longest:
            return None
        mirror = self._mirrors.get(sequence) or self._begin(sequence)
        if mirror is None:
            return None
        held = self._prefix.slots[mirror.slot].tokens
        mirror.cached = min(common_prefix(held, tokens), len(tokens) - 1)
        if mirror.cached < len(held):
            self._move(self._prefix.shorten(mirror.slot, mirror.cached))
        mirror.tokens = list(tokens)
        known = all(token < self._shared for token in tokens[mirror.cached :])
        return mirror if known else None

    def _begin(self, sequence: Sequence) -> Sequence | None:
        """A slot that holds as much of the sequence as any does."""
        if not (self._prefix.has_idle_slot and self.record.may_invest):
            return None
        slot, moves = self._prefix.acquire(sequence.tokens, self._prefix.match(sequence.tokens))
        self._move(moves)
        mirror = Sequence(sequence.id, list(sequence.tokens), SamplingParams(), slot=slot)
        self._mirrors[sequence] = mirror
        return mirror

    def _catch_up(self, mirrors: list[Sequence], terms: Terms) -> None:
        """Read on in what was said before, no more than a step may take."""
        behind = [mirror for mirror in mirrors if mirror.pending > self._behind]
        if not self.record.may_invest:
            behind = [mirror for mirror in behind if mirror in self._reading]
        self._reading = behind
        left, slices = self._pace.budget, []
        for mirror in self._reading:
            if count := min(left, mirror.pending - 1):
                slices.append(Slice(mirror, mirror.cached, count))
                left -= count
        tokens = sum(part.count for part in slices)
        if not slices or not self._has_room(tokens):
            return
        started = self._clock()
        self._decode(slices)
        seconds = self._clock() - started
        self._pace.learn(0, tokens, seconds)
        self.record.invest(seconds / terms.plain)

    def _guess(self, drafts: list[_Draft], terms: Terms) -> None:
        """One token for each at a time, as long as another is worth its price."""
        if not self._has_room(sum(draft.mirror.pending + draft.most for draft in drafts)):
            return
        while drafts:
            slices = [Slice(d.mirror, d.mirror.cached, d.mirror.pending) for d in drafts]
            started = self._clock()
            logits = self._decode(slices)[:, : self._shared]
            self.costs.learn(sum(part.count for part in slices), self._clock() - started)
            going = [d for d, row in zip(drafts, logits, strict=True) if self._extend(d, row)]
            drafts = [d for d in going if self._is_worth_it(d.chance, len(going), terms)]

    def _extend(self, draft: _Draft, logits: npt.NDArray[np.float32]) -> bool:
        """Add the likeliest token; False when nothing may follow it."""
        token = int(logits.argmax())
        if self.backend.is_end(token):
            return False
        certainty = 1 / float(np.exp(logits - logits[token]).sum())
        kind = sum(certainty >= bound for bound in _CERTAIN[1:])
        rate = self.record.rate(kind)
        self._usual += _CHANGE * (rate - self._usual)
        draft.kinds.append(kind)
        draft.chance *= rate
        draft.mirror.tokens.append(token)
        return len(draft.kinds) < draft.most

    def _is_worth_it(self, chance: float, together: int, terms: Terms) -> bool:
        """Whether another guess promises more time than it takes, here and to be checked.

        Where it did not for long it is tried again now and then.
        """
        promise = chance * self._usual * terms.plain / terms.answering
        worth = promise > self._price(together, terms)
        return worth or (chance == 1.0 and self.record.is_full)

    def _price(self, together: int, terms: Terms) -> float:
        """Seconds for a token: to be guessed among so many, and to be checked."""
        return terms.row + self.costs.seconds(together) / max(1, together)

    def _decode(self, slices: list[Slice]) -> npt.NDArray[np.float32]:
        if self._threads:
            self.backend.use_threads(self._threads.now)
        logits = self.backend.decode(slices)
        for part in slices:
            part.sequence.cached += part.count
            self._prefix.extend(part.sequence.slot, part.tokens)
        return logits

    def _has_room(self, cells: int) -> bool:
        self._move(self._prefix.evict(cells))
        return self._prefix.free_cells >= cells

    def _move(self, moves: list[Move]) -> None:
        for move in moves:
            if isinstance(move, Copy):
                self.backend.copy(move.source, move.slot, move.count)
            elif isinstance(move, Keep):
                self.backend.keep(move.slot, move.count)
