"""One thread makes vectors: requests in, outcomes out; it may have to wait for its turns."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from portable.engine.embedding.embedder import Embedder, Outcome
from portable.errors import EngineError, PortableError

# Runs what it is given while nobody else uses the model.
Turn = Callable[[Callable[[], list[Outcome]]], list[Outcome]]


def at_once(work: Callable[[], list[Outcome]]) -> list[Outcome]:
    """The turn of a model that does nothing else."""
    return work()


class EmbeddingWorker:
    """Steps an Embedder while there is work, and sleeps otherwise; `make` is called at first use.

    `deliver` is called in this thread, with an id and its vectors or its error.
    """

    def __init__(
        self, make: Callable[[], Embedder], turn: Turn, deliver: Callable[[Outcome], None]
    ) -> None:
        self._make = make
        self._turn = turn
        self._deliver = deliver
        self._embedder: Embedder | None = None
        self._inbox: queue.SimpleQueue[tuple[str, list[list[int]] | None] | None] = (
            queue.SimpleQueue()
        )
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="embeddings", daemon=True)
        self._thread.start()

    @property
    def steps(self) -> int:
        """Batches so far: a sign of life for whoever watches."""
        return self._embedder.steps if self._embedder else 0

    def submit(self, id: str, texts: list[list[int]]) -> None:
        """Queue texts as token ids. Any thread may call."""
        self._inbox.put((id, texts))

    def cancel(self, id: str) -> None:
        """Forget a request after the batch at work. Unknown ids are ignored."""
        self._inbox.put((id, None))

    def close(self) -> None:
        """Stop the thread; the model may be freed after this returns."""
        self._closing = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            if self._take_message() and self._embedder:
                self._step(self._embedder)

    def _take_message(self) -> bool:
        """What came in; waits while there is nothing to do. False if a batch has to wait for it."""
        busy = self._embedder is not None and self._embedder.has_work
        try:
            message = self._inbox.get(block=not busy)
        except queue.Empty:
            return True
        if message is None:
            return False
        id, texts = message
        if texts is not None:
            self._add(id, texts)
        elif self._embedder:
            self._embedder.cancel(id)
        return False

    def _add(self, id: str, texts: list[list[int]]) -> None:
        try:
            self._embedder = self._embedder or self._make()
            self._embedder.add(id, texts)
        except Exception as error:
            self._tell([(id, _known(error))])

    def _step(self, embedder: Embedder) -> None:
        try:
            outcomes = self._turn(embedder.step)
        except Exception as error:  # also a defect of ours: it must not end the thread silently
            outcomes = embedder.fail(_known(error))
        self._tell(outcomes)

    def _tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self._deliver(outcome)


def _known(error: Exception) -> PortableError:
    if isinstance(error, PortableError):
        return error
    return EngineError(f"{type(error).__name__}: {error}")
