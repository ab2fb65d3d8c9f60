"""Serve: a port, uvicorn, the model's process; says what the tutorial's readers wait for."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
import uvicorn.config

from portable.engine.machine import check_file
from portable.errors import EngineError, PortableError
from portable.server import ports
from portable.server.app import make_app
from portable.server.config import ServerConfig
from portable.server.fleet import Fleet
from portable.server.model import ModelProcess
from portable.server.ports import choose_port
from portable.server.served import ModelConfig, Served

__all__ = ["choose_port", "serve"]

log = logging.getLogger("portable")


def serve(models: Sequence[ModelConfig], config: ServerConfig, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code. The first model is the default.

    Raises UsageError, PortInUse or ModelFileError before anything is loaded.
    """
    for engine in (model.engine for model in models):
        for file in filter(None, (engine.model, engine.adapter)):
            check_file(file)
    sockets = ports.listen(config, say)
    server = _Server(models, config)
    server.run(sockets)
    if server.error:
        raise server.error
    return 130 if server.interrupted else 0


class _Server(uvicorn.Server):
    """uvicorn, with the models beside it: the end of a lone one is the server's end."""

    def __init__(self, models: Sequence[ModelConfig], config: ServerConfig) -> None:
        settings = uvicorn.Config(
            make_app(models, config, self._begin),
            http="h11",
            ws="none",
            log_config=_log_config(),
            timeout_graceful_shutdown=math.ceil(config.drain_seconds) + 1,
            server_header=False,
            h11_max_incomplete_event_size=64 << 10,
        )
        super().__init__(settings)
        self.error: PortableError | None = None
        self.interrupted = False
        self._drain_seconds = config.drain_seconds
        self._fleet: Fleet | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # uvicorn says this only of sockets of its own.
        for sock in sockets or []:
            log.info("Uvicorn running on %s (Press CTRL+C to quit)", ports.url(sock))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers come to their end; those that take too long end with an error."""
        drained = asyncio.get_running_loop().call_later(self._drain_seconds, self._cut_short)
        await super().shutdown(sockets)
        drained.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once. SIGTERM is no failure: exit code 0."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.interrupted = sig == signal.SIGINT

    def _begin(self, fleet: Fleet) -> None:
        self._fleet = fleet
        loop = asyncio.get_running_loop()
        self._tasks = {loop.create_task(self._tell(served)) for served in fleet.models}
        if len(fleet.models) == 1:
            self._tasks.add(loop.create_task(self._follow(fleet.default.process)))

    async def _tell(self, served: Served) -> None:
        await served.process.ready.wait()
        if info := served.process.info:
            log.info("%s is ready in %.1f s: %s", served.id, info.load_seconds, info.placement)
            log.info("%s; context %d tokens", served.process.offload_reason, info.context)

    async def _follow(self, model: ModelProcess) -> None:
        await model.gone.wait()
        self.error = model.failure or EngineError("the model cannot be kept running")
        self.should_exit = True

    def _cut_short(self) -> None:
        if self._fleet:
            self._fleet.fail_all(EngineError("the server is shutting down"))


def _log_config() -> dict[str, object]:
    """uvicorn's own lines on stderr, and ours in the same style."""
    config: dict[str, object] = {**uvicorn.config.LOGGING_CONFIG}
    config["loggers"] = {
        **uvicorn.config.LOGGING_CONFIG["loggers"],
        "portable": {"handlers": ["default"], "level": "INFO", "propagate": False},
    }
    return config
