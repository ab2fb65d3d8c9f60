"""The engine as a child process: frames in on stdin, frames out on stdout; dies with its parent.

llama.cpp aborts on some inputs. Here that ends one process that the parent starts again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import msgspec

from portable.engine import protocol
from portable.engine.config import EngineConfig
from portable.engine.embedding.kind import kind_of, wrong_model
from portable.engine.embedding.service import EmbeddingService
from portable.engine.isolated import claimed_stdout
from portable.engine.queries import Queries
from portable.engine.rpc.lost import GUARD, Pulse
from portable.engine.sequence import Delta
from portable.engine.service import Service
from portable.errors import EngineError, OutOfMemory

_BEAT_SECONDS = 1.0


class Child:
    """Serves one model until stdin ends."""

    def __init__(self, config: EngineConfig, commands: BinaryIO, events: BinaryIO) -> None:
        self._commands = commands
        self._events = events
        self._writing = threading.RLock()
        self._stopped = threading.Event()
        self._pulse = Pulse()
        GUARD.report = lambda error: self._send(protocol.failed("", error))
        GUARD.install(())
        if config.rpc:
            GUARD.watch(self._pulse, config.rpc_seconds)
        self._service = self._load(config)
        self._queries = Queries(self._service, self._send)
        # Two threads: a long prompt being tokenized must not hold up a short one.
        self._preparing = ThreadPoolExecutor(2, "prepare")
        self._wanted: set[str] = set()  # not submitted yet, and nobody has cancelled them

    def _load(self, config: EngineConfig) -> Service | EmbeddingService:
        if kind_of(config).task == "generate":
            return Service(config, self._deliver, self._loading)
        return EmbeddingService(config, self._loading)

    def run(self) -> None:
        """Answer commands until the parent closes the pipe."""
        service = self._service
        self._pulse.follow(self._work)
        told = service.info, service.offload_reason, service.template, service.findings
        self._send(protocol.Ready(*told))
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        while (command := self._read()) is not None:
            if isinstance(command, protocol.Cancel):
                self._cancel(command.id)
            elif isinstance(command, protocol.Query):
                self._queries.ask(command)
            else:
                self._wanted.add(command.id)
                self._preparing.submit(self._generate, command)
        self._stopped.set()
        self._preparing.shutdown(cancel_futures=True)
        self._queries.close()
        service.close()

    def _cancel(self, id: str) -> None:
        with self._writing:  # so that it comes before the request is submitted or after, not amid
            self._wanted.discard(id)
            self._queries.cancel(id)
            if isinstance(self._service, Service):
                self._service.worker.cancel(id)

    def _generate(self, command: protocol.Generate) -> None:
        if command.id not in self._wanted:
            return
        try:
            service = self._generating()
            tokens, params, answer = service.prepare(command)
            with self._writing:  # so that no delta can overtake the acceptance
                if command.id in self._wanted:
                    service.worker.submit(command.id, tokens, params, answer)
                    self._send(protocol.Accepted(command.id, len(tokens)))
        except Exception as error:
            self._send(protocol.failed(command.id, error))
        finally:
            self._wanted.discard(command.id)

    def _generating(self) -> Service:
        if isinstance(self._service, Service):
            return self._service
        raise wrong_model(self._service.info.task)

    def _read(self) -> protocol.Command | None:
        header = self._commands.read(protocol.HEADER.size)
        if len(header) < protocol.HEADER.size:
            return None
        (size,) = protocol.HEADER.unpack(header)
        body = self._commands.read(size)
        if len(body) < size:
            return None
        command: protocol.Command = protocol.decode_command(body)
        return command

    def _deliver(self, deltas: list[Delta]) -> None:
        if any(delta.error and delta.error[0] == OutOfMemory.code for delta in deltas):
            self._service.weights.fallback.end()  # who has no text yet is answered by the next one
        try:
            self._send(protocol.Deltas(deltas))
        except Exception:  # requests would wait for ever: better to be started again
            traceback.print_exc()
            os._exit(EngineError.exit_code)

    def _loading(self, fraction: float) -> None:
        self._pulse.part()
        self._send(protocol.Loading(fraction))

    def _beat(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            self._send(self._sign_of_life())

    def _work(self) -> tuple[int, int]:
        """Steps so far, and requests that wait for more of them."""
        steps, unfinished = self._queries.steps, self._queries.unfinished
        if isinstance(self._service, Service):
            steps += self._service.worker.steps
            unfinished += self._service.worker.unfinished
        return steps, unfinished

    def _sign_of_life(self) -> protocol.Beat:
        service, threads = self._service, self._service.threads
        steps, unfinished = self._work()
        cells, token_seconds = 0, 0.0
        if isinstance(service, Service):
            cells, token_seconds = service.worker.cells, service.worker.token_seconds
        memory = service.weights.buffers.elsewhere()
        how = threads.now, threads.why
        return protocol.Beat(steps, unfinished, cells, *how, memory, token_seconds)

    def _send(self, event: protocol.Event) -> None:
        data = protocol.frame(event)
        try:
            with self._writing:
                self._events.write(data)
                self._events.flush()
        except OSError:
            os._exit(0)  # the parent is gone: nobody is left to answer


def main() -> int:
    """`python -m portable.engine.child CONFIG`, the configuration as JSON."""
    # A service manager signals all processes; the parent decides when this one ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    commands = sys.stdin.buffer
    events = claimed_stdout()
    config = msgspec.json.decode(sys.argv[1], type=EngineConfig, dec_hook=lambda kind, v: kind(v))
    try:
        child = Child(config, commands, events)
    except Exception as error:
        events.write(protocol.frame(protocol.failed("", error)))
        events.flush()
        return 1
    child.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
