"""Token ids -> vectors, many requests a batch at a time. Pure: no thread, no text, no llama.cpp."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from portable.engine.backend import Aborted
from portable.engine.pace import Pace
from portable.engine.threads import Threads
from portable.errors import ContextLengthExceeded, InvalidRequest, NonFiniteLogits, PortableError

if TYPE_CHECKING:
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of the text in `slot`, from position `start` on; `ends` if they are its last."""

    slot: int
    start: int
    tokens: list[int]
    ends: bool


class Encoder(Protocol):
    """A model that makes vectors of `width` numbers, owned by one thread.

    A text has at most `context` tokens, a batch `batch`, or one longer text; `slots` texts can be
    begun, of `cells` tokens in all. If it reads texts `whole`, each is one part.
    """

    context: int
    batch: int
    slots: int
    cells: int
    whole: bool
    width: int
    vocabulary: int

    def use_threads(self, count: int) -> None:
        """Compute the next batches with so many CPU threads."""

    def encode(self, parts: list[Part]) -> Vectors:
        """One vector for each text that ends, in order: (ends, width). Raises as `decode` does."""

    def drop(self, slot: int) -> None:
        """Forget what was read of a text; a text that ended is forgotten already."""


@dataclass(slots=True, eq=False)
class _Job:
    """One request: `begun` of its texts are being read or done, `left` are not done."""

    id: str
    texts: list[list[int]]
    vectors: Vectors
    begun: int = 0
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.texts)


@dataclass(slots=True, eq=False)
class _Reading:
    """A text that holds a slot."""

    job: _Job
    at: int
    slot: int
    read: int = 0

    @property
    def tokens(self) -> list[int]:
        return self.job.texts[self.at]


@dataclass(frozen=True, slots=True)
class _Step:
    """A batch of so many tokens, for the choice of threads."""

    size: int
    depth: int = 0

    @property
    def reading(self) -> int:
        return self.size


Outcome = tuple[str, "Vectors | PortableError"]


class Embedder:
    """Requests for vectors on one encoder, a step at a time. Not thread-safe: one thread owns it.

    A step takes about `seconds` at most, unless one text that has to be read whole takes longer;
    without `threads` it takes those that the encoder was made with.
    Requests take turns, text by text, so that a large one does not hold up a small one.
    """

    def __init__(
        self,
        encoder: Encoder,
        seconds: float,
        threads: Threads | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.encoder = encoder
        self.steps = 0
        self._threads = threads
        self._clock = clock
        self._pace = Pace(seconds, encoder.batch)
        self._jobs: dict[str, _Job] = {}
        self._turns: deque[_Job] = deque()
        self._reading: list[_Reading] = []
        self._free = list(range(encoder.slots))

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def add(self, id: str, texts: list[list[int]]) -> None:
        """Queue texts. Raises InvalidRequest for one that is empty or too long for the model."""
        for at, tokens in enumerate(texts):
            _check(tokens, at, self.encoder)
        job = _Job(id, texts, np.empty((len(texts), self.encoder.width), np.float32))
        self._jobs[id] = job
        self._turns.append(job)

    def cancel(self, id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        job = self._jobs.pop(id, None)
        if job is None:
            return
        if job in self._turns:
            self._turns.remove(job)
        for reading in [r for r in self._reading if r.job is job]:
            self._end(reading)
            self.encoder.drop(reading.slot)

    def fail(self, error: PortableError) -> list[Outcome]:
        """The model broke: end all requests with this error."""
        ids = list(self._jobs)
        for id in ids:
            self.cancel(id)
        return [(id, error) for id in ids]

    def step(self) -> list[Outcome]:
        """Read one batch; the vectors (texts, width) of the requests that are done with it."""
        plan = self._plan()
        if not plan:
            return []
        step = _Step(sum(len(part.tokens) for _, part in plan))
        started = self._clock()
        if self._threads:
            self.encoder.use_threads(self._threads.choose(step, started))
        try:
            vectors = self.encoder.encode([part for _, part in plan])
        except Aborted:  # somebody interrupted a decode, and it happened to be this one
            self._begin_again()
            return []
        self.steps += 1
        ended_at = self._clock()
        self._pace.learn(0, step.size, ended_at - started)
        if self._threads:
            self._threads.learn(step, ended_at - started, ended_at)
        for reading, part in plan:
            reading.read += len(part.tokens)
        ended = [reading for reading, part in plan if part.ends]
        outcomes = [self._take(reading, row) for reading, row in zip(ended, vectors, strict=True)]
        return [outcome for outcome in outcomes if outcome]

    def _plan(self) -> list[tuple[_Reading, Part]]:
        """What the next batch reads: texts that were begun, then those whose turn it is."""
        plan: list[tuple[_Reading, Part]] = []
        left = self._pace.budget
        for reading in self._reading:
            left -= self._put(plan, reading, left)
        while left > 0 and (begun := self._next(left, alone=not plan)):
            left -= self._put(plan, begun, left)
        return plan

    def _put(self, plan: list[tuple[_Reading, Part]], reading: _Reading, most: int) -> int:
        """Tokens taken of a text: `most`, but all of it where texts are read whole."""
        end = len(reading.tokens)
        if not self.encoder.whole:
            end = min(end, reading.read + max(0, most))
        tokens = reading.tokens[reading.read : end]
        if tokens:
            ends = end == len(reading.tokens)
            plan.append((reading, Part(reading.slot, reading.read, tokens, ends)))
        return len(tokens)

    def _next(self, left: int, alone: bool) -> _Reading | None:
        """The text whose turn it is, if there is room for it."""
        if not (self._turns and self._free):
            return None
        job = self._turns[0]
        size = len(job.texts[job.begun])
        if self.encoder.whole and size > left and not alone:
            return None
        if sum(len(r.tokens) for r in self._reading) + size > self.encoder.cells:
            return None
        reading = _Reading(job, job.begun, self._free.pop())
        self._reading.append(reading)
        job.begun += 1
        self._turns.popleft()
        if job.begun < len(job.texts):
            self._turns.append(job)
        return reading

    def _take(self, reading: _Reading, row: Vectors) -> Outcome | None:
        """Keep a text's vector; its request's outcome if that was the last one."""
        if reading not in self._reading:  # its request failed with an earlier text of this batch
            return None
        job = reading.job
        self._end(reading)
        if not np.isfinite(row).all():
            self.cancel(job.id)
            return job.id, NonFiniteLogits(f"the vector of text {reading.at} is not finite")
        job.vectors[reading.at] = row
        job.left -= 1
        if job.left:
            return None
        del self._jobs[job.id]
        return job.id, job.vectors

    def _end(self, reading: _Reading) -> None:
        self._reading.remove(reading)
        self._free.append(reading.slot)

    def _begin_again(self) -> None:
        for reading in self._reading:
            self.encoder.drop(reading.slot)
            reading.read = 0


def _check(tokens: list[int], at: int, encoder: Encoder) -> None:
    param = f"texts[{at}]"
    if not tokens:
        raise InvalidRequest(f"text {at} is empty", param=param)
    if len(tokens) > encoder.context:
        raise ContextLengthExceeded(
            f"text {at} has {len(tokens)} tokens, this model reads {encoder.context}",
            hint="shorten it, or send `truncate`: true",
            param=param,
        )
    if not all(0 <= token < encoder.vocabulary for token in tokens):
        raise InvalidRequest(f"text {at} has a token id outside the vocabulary", param=param)


def normalised(vectors: Vectors, dimensions: int | None = None) -> Vectors:
    """The first `dimensions` numbers of each row, scaled to length 1; a row of zeros stays."""
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.where(lengths > 0, lengths, 1), np.float32)
