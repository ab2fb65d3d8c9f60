"""What the engine asks of a model: the seam between it and llama.cpp, and the one tests fake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from portable.engine.places import Place, spoken
from portable.engine.sequence import Slice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    State = npt.NDArray[np.uint8]


Task = Literal["generate", "embed", "rerank"]


class CacheFull(Exception):
    """No cells for this decode. Nothing of it was written."""


class Aborted(Exception):
    """The decode was interrupted by `abort`; some of it may have been written."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and what ran where, as the backend itself reported it."""

    name: str
    architecture: str
    description: str
    parameters: int
    size: int
    context: int
    trained_context: int
    vocabulary: int
    threads: int
    load_seconds: float
    sampling: dict[str, float]
    adapter: str = ""
    power: str = ""
    task: Task = "generate"
    draft: str = ""
    places: tuple[Place, ...] = ()

    @property
    def layers(self) -> int:
        """With the output as one of them."""
        return sum(place.layers for place in self.places)

    @property
    def offloaded(self) -> int:
        """Of the layers, those that lie on another device than the host."""
        return sum(place.layers for place in self.offloads)

    @property
    def offloads(self) -> tuple[Place, ...]:
        """All devices but the host, used or not."""
        return tuple(place for place in self.places if place.kind != "cpu")

    @property
    def placement(self) -> str:
        """What ran where, in one line."""
        layers = spoken(self.places, self.threads)
        adapter = f", with the adapter {self.adapter}" if self.adapter else ""
        draft = f", {self.draft} guesses ahead" if self.draft else ""
        return layers + adapter + draft + (f", {self.power}" if self.power else "")


@dataclass(frozen=True, slots=True)
class Spelling:
    """All tokens as bytes, or as their names where they are `control`; `ends` end an answer."""

    tokens: list[bytes]
    control: list[int]
    ends: list[int]


class Backend(Protocol):
    """A loaded model with its KV cache, owned by one thread.

    Only `tokenize`, `piece`, `token_text`, `spelling` and `abort` may be called from other threads.
    A state that is longer than `window` cannot be shortened, but for the parts that were saved in
    time; these may take `mark_bytes` of memory.
    """

    cells: int
    context: int
    vocabulary: int
    can_keep_part: bool
    window: int
    mark_bytes: int

    def tokenize(self, text: str, *, special: bool, start: bool) -> list[int]:
        """Token ids; `special` lets the text name control tokens, `start` adds the model's own."""

    def piece(self, token: int) -> bytes:
        """The bytes that one token stands for; nothing for control tokens."""

    def token_text(self, token: int) -> str:
        """The vocabulary's own name of a token, which for control tokens is how texts name them."""

    def spelling(self) -> Spelling:
        """The whole vocabulary; takes some tenths of a second."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends the answer."""

    def is_control(self, token: int) -> bool:
        """Whether the token is none of a text's, but marks its parts."""

    def decode(self, slices: list[Slice]) -> npt.NDArray[np.float32]:
        """Run one batch. Returns logits of shape (rows of all slices, n_vocab).

        The array is a view that the next call overwrites. Raises CacheFull, Aborted, EngineError.
        """

    def use_threads(self, count: int) -> None:
        """Compute the next batches with so many CPU threads."""

    def keep(self, slot: int, count: int) -> None:
        """Forget all but the first `count` tokens of a slot."""

    def copy(self, source: int, slot: int, count: int) -> None:
        """Share the first `count` tokens of one slot with another, empty one."""

    def is_intact(self, slot: int, count: int) -> bool:
        """Whether all that the token behind the first `count` of a slot looks at is still there."""

    def save_part(self, slot: int, most: int) -> State | None:
        """What a slot could not be shortened to later; None if that is more than `most` bytes."""

    def load_part(self, slot: int, count: int, part: State) -> bool:
        """Keep the first `count` tokens of a slot, which had this part then.

        False, and the slot is spoilt, if it fails.
        """

    def save_state(
        self, slot: int, count: int, most: int, part: State | None = None
    ) -> State | None:
        """The first `count` tokens of a slot as bytes, by the `part` saved then if it takes one.

        None if they are more than `most`.
        """

    def load_state(self, slot: int, count: int, state: State) -> bool:
        """Fill an empty slot with `count` tokens again; False, and still empty, if it fails."""

    def abort(self) -> None:
        """Interrupt the running decode, or the next one if none is running."""

    def close(self) -> None: ...


Loading = Callable[[float], None]
