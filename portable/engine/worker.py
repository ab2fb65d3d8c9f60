"""One thread owns an Engine: submit, cancel, deltas out; knows no process and no transport."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from portable.engine.backend import Aborted
from portable.engine.checks import check_bias, check_prompt
from portable.engine.engine import Engine
from portable.engine.sampling import Constraint
from portable.engine.sequence import Delta, SamplingParams
from portable.errors import EngineError, PortableError, QueueFull

T = TypeVar("T")
log = logging.getLogger("portable")

Deliver = Callable[[list[Delta]], None]

# Seconds without work before a prefix is saved: whoever asks again at once does not wait for it.
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class _Add:
    id: str
    tokens: list[int]
    params: SamplingParams
    constraint: Constraint | None


@dataclass(frozen=True, slots=True)
class _Cancel:
    id: str


@dataclass(frozen=True, slots=True)
class _Work:
    work: Callable[[], Any]
    done: Future[Any]


class Worker:
    """Runs the engine's steps in its own thread while there is work, and sleeps otherwise.

    `deliver` is called in that thread with the deltas of each step.
    """

    def __init__(self, engine: Engine, deliver: Deliver) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[_Add | _Cancel | _Work | None] = queue.SimpleQueue()
        self._unfinished: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def steps(self) -> int:
        """Decodes so far: a sign of life for whoever watches."""
        return self._engine.steps

    @property
    def token_seconds(self) -> float:
        """What a token alone takes; 0 as long as nobody knows."""
        return self._engine.token_seconds

    @property
    def unfinished(self) -> int:
        return len(self._unfinished)

    @property
    def cells(self) -> int:
        """Of the KV cache, in use."""
        return self._engine.backend.cells - self._engine.scheduler.prefix.free_cells

    def submit(
        self,
        id: str,
        tokens: list[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
    ) -> None:
        """Queue a prompt. Raises InvalidRequest, ContextLengthExceeded or QueueFull at once."""
        check_prompt(tokens, self._engine.backend)
        check_bias(params.logit_bias, self._engine.backend.vocabulary)
        config = self._engine.config
        if len(self._unfinished) >= config.slots + config.queue:
            raise QueueFull(
                f"{len(self._unfinished)} requests are running or waiting",
                hint="try again in a moment",
            )
        self._unfinished.add(id)
        self._inbox.put(_Add(id, tokens, params, constraint))

    def cancel(self, id: str) -> None:
        """End a request soon, also while its prompt is being read. Unknown ids are ignored."""
        self._inbox.put(_Cancel(id))
        self._engine.interrupt(id)

    def between(self, work: Callable[[], T]) -> T:
        """Run something of the same model between two steps, in the engine's thread; it should be
        as short as a step. Any other thread may call; raises what `work` raises."""
        done: Future[T] = Future()
        self._inbox.put(_Work(work, done))
        return done.result()

    def close(self) -> None:
        """Stop the thread; the model may be freed after this returns."""
        self._inbox.put(None)
        self._engine.backend.abort()
        self._thread.join()

    def _run(self) -> None:
        while self._take_messages():
            try:
                deltas = self._engine.step()
            except PortableError as error:
                deltas = self._engine.fail(error)
            except Exception as error:  # a defect of ours must not end the thread silently
                deltas = self._engine.fail(EngineError(f"{type(error).__name__}: {error}"))
            self._tell(deltas)
        with _no_harm():
            self._engine.close()

    def _take_messages(self) -> bool:
        """All that came in; waits while there is nothing to do. False when the worker is closed."""
        while True:
            try:
                message = self._next_message()
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, _Work):
                _carry_out(message)
                return True  # a step first, whatever else is to be done between steps
            if isinstance(message, _Add):
                self._engine.add(message.id, message.tokens, message.params, message.constraint)
            elif delta := self._engine.cancel(message.id):
                self._tell([delta])

    def _next_message(self) -> _Add | _Cancel | _Work | None:
        """Waits while there is nothing to do, and saves prefixes then. Raises queue.Empty."""
        if self._engine.has_work:
            return self._inbox.get(block=False)
        self._calibrate()
        while True:
            try:
                return self._inbox.get(timeout=_PAUSE)
            except queue.Empty:
                saved = False
                with _no_harm():
                    saved = self._engine.save_prompt()
                if not saved:
                    return self._inbox.get()

    def _calibrate(self) -> None:
        """Time steps while nobody asks for anything; whoever does waits for one of them at most."""
        try:
            while self._inbox.empty() and self._engine.calibrate():
                pass
        except (PortableError, Aborted) as error:
            log.warning("steps could not be timed: %s", error)

    def _tell(self, deltas: list[Delta]) -> None:
        self._unfinished -= {delta.id for delta in deltas if delta.finish_reason}
        if deltas:
            self._deliver(deltas)


def _carry_out(message: _Work) -> None:
    try:
        message.done.set_result(message.work())
    except BaseException as error:  # it is the caller's
        message.done.set_exception(error)


@contextlib.contextmanager
def _no_harm() -> Iterator[None]:
    """Prefixes that cannot be saved cost nobody an answer."""
    try:
        yield
    except Exception as error:
        log.warning("prompts could not be saved: %s: %s", type(error).__name__, error)


class Streams:
    """A `deliver` for callers in the same process: each request's deltas in its own queue."""

    def __init__(self) -> None:
        self._queues: dict[str, queue.SimpleQueue[Delta]] = {}

    def open(self, id: str) -> None:
        self._queues[id] = queue.SimpleQueue()

    def close(self, id: str) -> None:
        """Nothing is going to be read: the request was refused."""
        self._queues.pop(id, None)

    def __call__(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if (stream := self._queues.get(delta.id)) is not None:
                stream.put(delta)

    def read(self, id: str) -> Iterator[Delta]:
        """Deltas as they come, up to the one with a finish_reason."""
        stream = self._queues[id]
        try:
            while True:
                delta = stream.get()
                yield delta
                if delta.finish_reason:
                    return
        finally:
            self.close(id)
