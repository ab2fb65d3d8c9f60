"""One replica: the server's application without a socket; Ray passes its messages on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import ray
from ray import serve
from starlette.types import Message, Receive, Scope

from portable.cli.serve import Flags, models
from portable.errors import PortableError
from portable.server import logs
from portable.server.app import make_app
from portable.server.config import ServerConfig
from portable.server.fleet import Fleet

log = logging.getLogger("portable")

REPLICA = b"x-replica-id"
_SAID_AGAIN = {b"x-request-id", b"vary"}  # by Ray's proxy, and by the guard of the ingress


class Server:
    """Ready when its default model is loaded, healthy as long as that can be kept running."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, flags: Flags, config: ServerConfig
    ) -> None:
        logs.join(config.log_format, config.log_level)
        self._id = serve.get_replica_context().replica_tag
        try:
            wanted = await asyncio.to_thread(models, _with_threads(flags))
            self._app = make_app(wanted, config, self._begin)
            self._lifespan = self._app.router.lifespan_context(self._app)
            await self._lifespan.__aenter__()
            await self._fleet.load(self._fleet.default)
        except PortableError as error:  # of which Ray would tell the class and where it was made
            raise RuntimeError(str(error)) from None

    def _begin(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def __del__(self) -> None:
        """Ray awaits it, when the last answer has ended or has taken too long."""
        if hasattr(self, "_lifespan"):
            await self._lifespan.__aexit__(None, None, None)

    def _headers(self, said: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Which replica answers, and what is not said again on the way."""
        return [*((k, v) for k, v in said if k not in _SAID_AGAIN), (REPLICA, self._id.encode())]

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        process = self._fleet.default.process
        if process.gone.is_set():
            raise RuntimeError(f"the model cannot be kept running: {process.failure}")

    def metrics(self) -> tuple[str, str]:
        """This replica's id, and what it tells Prometheus."""
        return self._id, self._app.state.portable.metrics.render().decode()

    async def answer(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """The answer to one request, as ASGI messages. Whoever stops reading has left."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        task = asyncio.create_task(self._app(scope, _receive(body), messages.put))
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while message := await messages.get():
                if message["type"] == "http.response.start":
                    message["headers"] = self._headers(message["headers"])
                yield message
        finally:
            task.cancel()
            (defect,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(defect, Exception):  # answered with 500
                log.error("a request failed", exc_info=defect)


def _with_threads(flags: Flags) -> Flags:
    """As many threads as Ray gave this replica CPUs: the other cores are for others."""
    cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))
    running = flags.running
    return replace(flags, running=replace(running, threads=running.threads or max(1, cpus)))


def _receive(body: bytes) -> Receive:
    """The body, and then nothing: it is by a cancellation that Ray tells of a client that left."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        for message in messages:
            return message
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody resolves it")

    return receive
