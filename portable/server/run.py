"""Serve: a port, uvicorn, the model's process; says what the tutorial's readers wait for."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

import psutil
import uvicorn
import uvicorn.config

from portable.engine.config import EngineConfig
from portable.engine.llama import check_file
from portable.errors import EngineError, PortableError, PortInUse, UsageError
from portable.server.app import make_app
from portable.server.config import ServerConfig
from portable.server.model import ModelProcess

log = logging.getLogger("portable")


def serve(engine: EngineConfig, config: ServerConfig, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code.

    Raises UsageError, PortInUse or ModelFileError before anything is loaded.
    """
    check_file(engine.model)
    port = choose_port(config, say)
    watcher = _Watcher(config.names[0])
    app = make_app(engine, config, watcher.begin)
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=port,
        log_config=_log_config(),
        timeout_graceful_shutdown=config.drain_seconds,
        server_header=False,
        h11_max_incomplete_event_size=64 << 10,
    )
    watcher.server = uvicorn.Server(settings)
    try:
        watcher.server.run()
    except KeyboardInterrupt:
        return 130
    if watcher.error:
        raise watcher.error
    return 0


def choose_port(config: ServerConfig, say: Callable[[str], None]) -> int:
    """The port that was asked for, or 8000, or the next free one. Raises PortInUse, UsageError."""
    if config.port is not None:
        _try_port(config.host, config.port)
        return config.port
    for port in range(config.default_port, config.default_port + 100):
        try:
            _try_port(config.host, port)
        except PortInUse as error:
            say(f"{error.message}; trying the next port")
        else:
            return port
    raise PortInUse(f"no free port from {config.default_port} on", hint="name one with --port")


def _try_port(host: str, port: int) -> None:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _holder(port)
            raise PortInUse(
                f"port {port} is in use{holder}", hint="choose another --port"
            ) from None
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _holder(port: int) -> str:
    """Who listens there, if this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == "LISTEN":
                name = psutil.Process(connection.pid).name() if connection.pid else ""
                return f" by {name} (process {connection.pid})" if name else ""
    except (psutil.Error, OSError):
        pass
    return ""


class _Watcher:
    """Tells when the model is ready, and ends the server when it never will be."""

    def __init__(self, name: str) -> None:
        self.server: uvicorn.Server | None = None
        self.error: PortableError | None = None
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, model: ModelProcess) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = {loop.create_task(self._ready(model)), loop.create_task(self._gone(model))}

    async def _ready(self, model: ModelProcess) -> None:
        await model.ready.wait()
        if info := model.info:
            log.info("%s is ready in %.1f s: %s", self._name, info.load_seconds, info.placement)
            log.info("%s; context %d tokens", model.offload_reason, info.context)

    async def _gone(self, model: ModelProcess) -> None:
        await model.gone.wait()
        self.error = model.failure or EngineError("the model cannot be kept running")
        if self.server:
            self.server.should_exit = True


def _log_config() -> dict[str, object]:
    """uvicorn's own lines on stderr, and ours in the same style."""
    config: dict[str, object] = {**uvicorn.config.LOGGING_CONFIG}
    config["loggers"] = {
        **uvicorn.config.LOGGING_CONFIG["loggers"],
        "portable": {"handlers": ["default"], "level": "INFO", "propagate": False},
    }
    return config
