"""A backend without weights: bytes are tokens, and the answer follows from what the cache holds.

If the engine put a wrong token, a wrong position or a wrong slot into a batch, the answer would be
wrong or an assertion here would fail. So every test that compares answers tests the bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from portable.engine.backend import Aborted, CacheFull, Spelling
from portable.engine.config import EngineConfig
from portable.engine.engine import Engine
from portable.engine.prompts.cache import PromptCache
from portable.engine.sequence import Delta, SamplingParams, Slice

END = 256
ASK = b">"  # where a prompt ends


def shout(prompt: bytes) -> bytes:
    """The answer to a prompt: itself, in capitals."""
    return prompt.upper() + b"!"


class FakeBackend:
    """Answers every prompt that ends in `>` by `answer`, one byte a token."""

    vocabulary = 257

    def __init__(
        self,
        cells: int = 1 << 20,
        context: int = 0,
        answer: Callable[[bytes], bytes] = shout,
        *,
        recurrent: bool = False,
    ) -> None:
        self.cells = self.window = cells
        self.can_keep_part = not recurrent
        self.mark_bytes = 1 << 30 if recurrent else 0
        if recurrent:
            self.window = 1
        self.spoilt: set[int] = set()
        self.lost_parts = 0  # so many calls of `load_part` fail
        self.context = context or cells
        self.answer = answer
        self.slots: dict[int, list[int]] = {}
        self.held: dict[int, list[object]] = {}
        self.batches: list[list[tuple[str, int]]] = []
        self.faults: list[Exception] = []
        self.bad_rows: set[str] = set()
        self.broken: set[int] = set()
        self.step_seconds = 0.0  # what a batch costs on `clock`, and each of its tokens
        self.token_seconds = 0.0
        self.now = 0.0
        self.aborted = 0
        self.threads: list[int] = []

    def tokenize(self, text: str, *, special: bool, start: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([token])

    def token_text(self, token: int) -> str:
        return "<end>" if token == END else chr(token)

    def spelling(self) -> Spelling:
        return Spelling([*(bytes([i]) for i in range(256)), b"<end>"], [END], [END])

    def is_end(self, token: int) -> bool:
        return token == END

    def is_control(self, token: int) -> bool:
        return token in b"<|"

    def decode(self, slices: list[Slice]) -> npt.NDArray[np.float32]:
        assert not self.spoilt & {part.sequence.slot for part in slices}
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Aborted) and not self.can_keep_part:
                self.spoilt |= {part.sequence.slot for part in slices}
            raise fault
        if len(self._cells()) + sum(part.size for part in slices) > self.cells:
            raise CacheFull
        self.now += self.step_seconds + self.token_seconds * sum(part.size for part in slices)
        self.batches.append([(part.sequence.id, part.size) for part in slices])
        return np.array([row for part in slices for row in self._rows(part)], np.float32)

    def use_threads(self, count: int) -> None:
        self.threads.append(count)

    def keep(self, slot: int, count: int) -> None:
        assert count <= len(self.slots.get(slot, [])), "keeps more than the slot holds"
        refused = not self.can_keep_part and 0 < count < len(self.slots.get(slot, []))
        assert not refused, "a recurrent state cannot be shortened"
        if count == 0:
            self.spoilt.discard(slot)
        self.slots[slot] = self.slots.get(slot, [])[:count]
        self.held[slot] = self.held.get(slot, [])[:count]

    def copy(self, source: int, slot: int, count: int) -> None:
        assert not self.slots.get(slot), "copies into a slot that is not empty"
        assert count <= len(self.slots[source])
        if source in self.spoilt or not self.is_whole(source, count):
            self.spoilt.add(slot)
        self.slots[slot] = self.slots[source][:count]
        self.held[slot] = self.held[source][:count]

    def is_intact(self, slot: int, count: int) -> bool:
        return slot not in self.broken and self.is_whole(slot, count)

    def is_whole(self, slot: int, count: int) -> bool:
        return self.can_keep_part or (
            slot not in self.spoilt and count == len(self.slots.get(slot, []))
        )

    def save_part(self, slot: int, most: int) -> npt.NDArray[np.uint8] | None:
        assert slot not in self.spoilt
        part = np.array(self.slots[slot], np.int32).view(np.uint8)
        return part if part.nbytes <= most else None

    def load_part(self, slot: int, count: int, part: npt.NDArray[np.uint8]) -> bool:
        if self.lost_parts:
            self.lost_parts -= 1
            self.spoilt.add(slot)
            return False
        assert part.view(np.int32).tolist() == self.slots[slot][:count], "another prompt's part"
        self.spoilt.discard(slot)
        self.slots[slot], self.held[slot] = self.slots[slot][:count], self.held[slot][:count]
        return True

    def save_state(
        self, slot: int, count: int, most: int, part: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8] | None:
        assert part is not None or self.is_whole(slot, count)
        assert part is None or part.view(np.int32).tolist() == self.slots[slot][:count]
        state = np.array(self.slots[slot][:count], np.int32).view(np.uint8)
        return state if state.nbytes <= most else None

    def load_state(self, slot: int, count: int, state: npt.NDArray[np.uint8]) -> bool:
        assert not self.slots.get(slot), "loads into a slot that is not empty"
        tokens = state.view(np.int32).tolist()
        if len(tokens) != count or len(self._cells()) + count > self.cells:
            return False
        self.slots[slot], self.held[slot] = tokens, [object() for _ in tokens]
        return True

    def clock(self) -> float:
        return self.now

    def abort(self) -> None:
        self.aborted += 1
        self.faults.append(Aborted())

    def close(self) -> None: ...

    def _cells(self) -> set[int]:
        """Cells in use; sequences that share a prefix share its cells, as in llama.cpp."""
        return {id(cell) for cells in self.held.values() for cell in cells}

    def _rows(self, part: Slice) -> Iterator[npt.NDArray[np.float32]]:
        held = self.slots.setdefault(part.sequence.slot, [])
        assert part.start == len(held), "a gap or a repetition in the positions"
        held += part.tokens
        self.held.setdefault(part.sequence.slot, []).extend(object() for _ in part.tokens)
        for behind in reversed(range(part.rows)):
            yield self._row(bytes(held[: len(held) - behind]), part.sequence.id in self.bad_rows)

    def _row(self, text: bytes, bad: bool) -> npt.NDArray[np.float32]:
        prompt, _, said = text.rpartition(ASK)
        answer = [*self.answer(prompt), END]
        row = np.zeros(self.vocabulary, np.float32)
        # Behind a wrong draft anything may come: nobody will ask.
        row[answer[min(len(said), len(answer) - 1)]] = 10
        if bad:
            row[3] = np.nan
        return row


def make_engine(
    backend: FakeBackend | None = None, prompts: PromptCache | None = None, **options: float | bool
) -> Engine:
    """An engine on a fake backend; options are EngineConfig's. It guesses only when asked to."""
    from pathlib import Path

    backend = backend or FakeBackend()
    options.setdefault("speculate", False)
    return Engine(backend, EngineConfig(Path("fake.gguf"), **options), backend.clock, prompts)


GREEDY = SamplingParams(temperature=0)


def ask(engine: Engine, id: str, prompt: str, params: SamplingParams = GREEDY) -> None:
    engine.add(id, list(prompt.encode() + ASK), params)


def run(engine: Engine, most: int = 100_000) -> dict[str, list[Delta]]:
    """Step until there is nothing left to do; deltas by request."""
    deltas: dict[str, list[Delta]] = {}
    for _ in range(most):
        if not engine.has_work:
            return deltas
        for delta in engine.step():
            deltas.setdefault(delta.id, []).append(delta)
    raise AssertionError("the engine never comes to an end")


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)
