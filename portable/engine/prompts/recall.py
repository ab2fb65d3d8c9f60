"""States between slots and disk: saved in idle moments, restored before a prompt is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from portable.engine.backend import Backend
from portable.engine.prefix import Move
from portable.engine.prompts.cache import PromptCache
from portable.engine.prompts.file import head_size
from portable.engine.prompts.plan import Candidate, superseded, worth_restoring, worth_saving
from portable.engine.scheduler import Scheduler
from portable.engine.sequence import Sequence

_REMEMBERED = 64


@dataclass(slots=True)
class Recall:
    """Owned by the engine's thread. `carry_out` does the scheduler's moves on the backend.

    It is false when these have to be planned again.
    """

    backend: Backend
    scheduler: Scheduler
    cache: PromptCache
    carry_out: Callable[[list[Move]], bool]
    # Once is enough: what did not fit, or had to go again, would fare no better the next time.
    _tried: deque[list[int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def save(self, *, at_end: bool = False) -> bool:
        """Save one prefix that is worth it; False when there is nothing left to do for now."""
        if not self.cache.most:
            return False
        if self.cache.is_busy and not at_end:
            return True
        self.cache.wait()
        self.cache.scan()
        candidate = worth_saving(
            self.scheduler.prefix.slots,
            [*self.cache.states.values(), *self._tried],
            window=self.backend.window,
            intact=self.backend.is_intact,
            at_end=at_end,
        )
        if candidate:
            self._save(candidate)
        return candidate is not None

    def close(self) -> None:
        """Save what is left, and return when it is written."""
        while self.save(at_end=True):
            pass
        self.cache.close()

    def restore(self) -> None:
        """Bring back what waiting prompts begin with, into idle slots; sought once for each."""
        for sequence in self.scheduler.waiting:
            if not (sequence.sought or self._restore(sequence)):
                return

    def _save(self, candidate: Candidate) -> None:
        tokens, slot = candidate.tokens, candidate.slot.id
        most = self.cache.most - head_size(candidate.count)
        part = candidate.mark.state if candidate.mark else None
        state = self.backend.save_state(slot, candidate.count, most, part)
        self._tried.append(tokens)
        if state is not None:
            useless = superseded(tokens, self.cache.states, self.backend.window)
            age = candidate.age  # no clock is kept for slots: a use counts as a second
            self.cache.write(tokens, state, useless, age)

    def _restore(self, sequence: Sequence) -> bool:
        """False when there is no room yet."""
        prompt, states = sequence.tokens, self.cache.states
        held = self.scheduler.prefix.match(prompt).count
        while found := worth_restoring(prompt, held, states, self.backend.window):
            path, count = found
            place = self.scheduler.vacate(max(len(states[path]), len(prompt)))
            if place is None:
                return False
            slot, moves = place
            if not self.carry_out(moves):
                return False
            if self._load(path, slot, count):
                break
        sequence.sought = True
        return True

    def _load(self, path: Path, slot: int, count: int) -> bool:
        """The first `count` tokens of a state, in an empty slot; without it if it is no good."""
        tokens, state = self.cache.states[path], self.cache.read(path)
        if state is None:
            return False
        if not self.backend.load_state(slot, len(tokens), state):
            self.cache.drop(path)
            return False
        if count < len(tokens):  # the rest is another conversation
            self.backend.keep(slot, count)
        self.scheduler.prefix.fill(slot, tokens[:count])
        return True
