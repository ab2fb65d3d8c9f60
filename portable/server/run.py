"""Serve: a port, uvicorn, the model's process; says what the tutorial's readers wait for."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from portable.engine.machine import check_file
from portable.errors import EngineError, PortableError
from portable.server import logs, ports, tls
from portable.server.app import make_app
from portable.server.config import ServerConfig
from portable.server.connection import Connection
from portable.server.fleet import Fleet
from portable.server.model import ModelProcess
from portable.server.ports import choose_port
from portable.server.served import ModelConfig

__all__ = ["choose_port", "serve"]

log = logging.getLogger("portable")


def serve(models: Sequence[ModelConfig], config: ServerConfig, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code. The first model is the default.

    Raises UsageError, PortInUse or ModelFileError before anything is loaded.
    """
    for engine in (model.engine for model in models):
        for file in filter(None, (engine.model, engine.adapter, engine.draft)):
            check_file(file)
    certificate = tls.context(config)
    sockets = ports.listen(config, say)
    server = _Server(models, config, certificate)
    server.run(sockets)
    if server.error:
        raise server.error
    return 130 if server.interrupted else 0


def settings(
    app: ASGIApp, config: ServerConfig, certificate: ssl.SSLContext | None = None
) -> uvicorn.Config:
    """uvicorn's, with our connections and their limits."""
    return uvicorn.Config(
        cast(Any, app),
        http=cast(Any, partial(Connection, limits=config)),
        # Not uvloop where another package brought it: all was tried with this one.
        loop="asyncio",
        ws="none",
        log_config=logs.settings(config.log_format, config.log_level),
        access_log=False,  # ours says more
        timeout_keep_alive=config.idle_seconds,
        timeout_graceful_shutdown=math.ceil(config.drain_seconds) + 1,
        server_header=False,
        h11_max_incomplete_event_size=config.max_head,
        ssl_context_factory=(lambda *_: certificate) if certificate else None,
    )


class _Server(uvicorn.Server):
    """uvicorn, with the models beside it: the end of a lone one is the server's end."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        config: ServerConfig,
        certificate: ssl.SSLContext | None,
    ) -> None:
        app = make_app(models, config, self._begin)
        super().__init__(settings(app, config, certificate))
        self.error: PortableError | None = None
        self.interrupted = False
        self._drain_seconds = config.drain_seconds
        self._fleet: Fleet | None = None
        self._end: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # uvicorn says this only of sockets of its own.
        for sock in sockets or []:
            log.info(
                "Uvicorn running on %s (Press CTRL+C to quit)", ports.url(sock, self.config.is_ssl)
            )

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
        only = fleet.default
        if len(fleet.models) == 1 and only.keep_alive is None:
            self._end = asyncio.get_running_loop().create_task(self._follow(only.process))

    async def _follow(self, model: ModelProcess) -> None:
        await model.gone.wait()
        self.error = model.failure or EngineError("the model cannot be kept running")
        self.should_exit = True

    def _cut_short(self) -> None:
        if self._fleet:
            self._fleet.fail_all(EngineError("the server is shutting down"))
