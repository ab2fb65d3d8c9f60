"""The thread that owns an engine: submit, read, cancel, refuse, close."""

from __future__ import annotations

import threading

import pytest
from fakes import ASK, GREEDY, FakeBackend, make_engine, text
from serving import until

from portable.engine.sequence import Delta
from portable.engine.worker import Streams, Worker
from portable.errors import ContextLengthExceeded, EngineError, QueueFull


class Slow(FakeBackend):
    """Decodes requests only while the gate is open, and what is timed before them at any time."""

    def __init__(self, cells: int = 1 << 20) -> None:
        super().__init__(cells)
        self.gate = threading.Event()

    def decode(self, slices):  # type: ignore[no-untyped-def]
        assert not slices[0].sequence.id or self.gate.wait(30)
        return super().decode(slices)


def submit(worker: Worker, streams: Streams, id: str, prompt: str) -> None:
    streams.open(id)
    worker.submit(id, list(prompt.encode() + ASK), GREEDY)


def test_requests_from_many_threads_are_answered() -> None:
    streams = Streams()
    worker = Worker(make_engine(slots=4), streams)
    answers: dict[int, str] = {}

    def one(i: int) -> None:
        submit(worker, streams, str(i), f"from {i}")
        answers[i] = text(list(streams.read(str(i))))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    worker.close()
    assert answers == {i: f"FROM {i}!" for i in range(12)}


def test_more_than_the_queue_holds_is_refused() -> None:
    backend, streams = Slow(), Streams()
    worker = Worker(make_engine(backend, slots=1, queue=2), streams)
    for i in range(3):
        submit(worker, streams, str(i), "x")
    with pytest.raises(QueueFull, match="3 requests"):
        worker.submit("4", [1, *ASK], GREEDY)
    backend.gate.set()
    assert [text(list(streams.read(str(i)))) for i in range(3)] == ["X!"] * 3
    submit(worker, streams, "5", "again")
    assert text(list(streams.read("5"))) == "AGAIN!"
    worker.close()


def test_refusals_come_at_once() -> None:
    worker = Worker(make_engine(FakeBackend(cells=16)), Streams())
    with pytest.raises(ContextLengthExceeded):
        worker.submit("a", [1] * 20, GREEDY)
    assert worker.unfinished == 0
    worker.close()


def test_a_cancel_interrupts_a_long_prompt() -> None:
    backend, streams = Slow(), Streams()
    worker = Worker(make_engine(backend), streams)
    submit(worker, streams, "long", "x" * 200)
    while not worker._engine._in_flight:
        pass
    worker.cancel("long")
    assert backend.aborted == 1
    backend.gate.set()
    assert list(streams.read("long"))[-1].finish_reason == "cancelled"
    worker.close()


def test_a_broken_step_ends_its_requests_and_not_the_worker() -> None:
    backend, streams = FakeBackend(), Streams()
    worker = Worker(make_engine(backend), streams)
    for fault in (EngineError("llama.cpp said no"), ZeroDivisionError("ours")):
        backend.faults = [fault]
        submit(worker, streams, "a", "x")
        last = list(streams.read("a"))[-1]
        assert last.error and last.error[0] == "backend_error"
    submit(worker, streams, "b", "fine")
    assert text(list(streams.read("b"))) == "FINE!"
    worker.close()


def test_close_does_not_wait_for_answers() -> None:
    backend, told = FakeBackend(answer=lambda prompt: b"for ever " * 10_000), []
    worker = Worker(make_engine(backend), lambda deltas: told.extend(deltas))
    worker.submit("a", [1, *ASK], GREEDY)
    worker.close()
    assert not worker._thread.is_alive()
    assert not any(delta.finish_reason for delta in told if isinstance(delta, Delta))


def test_single_tokens_are_timed_while_nobody_asks_and_leave_no_trace() -> None:
    backend, streams = FakeBackend(), Streams()
    backend.step_seconds = 0.125
    worker = Worker(make_engine(backend), streams)
    until(lambda: worker.token_seconds, 10)
    assert worker.token_seconds == 0.125
    assert not any(backend.slots.values()) and worker.cells == 0
    submit(worker, streams, "a", "x")
    assert text(list(streams.read("a"))) == "X!"
    worker.close()
