"""A free port for a server that opens its socket itself."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from portable.errors import PortInUse, UsageError
from portable.platforms import listen_alone
from portable.worker.config import WorkerConfig

_TRIED = 100


def choose(config: WorkerConfig, say: Callable[[str], None]) -> int:
    """The port that was asked for, or 50052 or the next free one. Raises PortInUse, UsageError."""
    if config.port is not None:
        return _free(config.address, config.port)
    for port in range(config.default_port, config.default_port + _TRIED):
        try:
            return _free(config.address, port)
        except PortInUse as error:
            say(f"{error.message}; trying the next port")
    raise PortInUse(f"no free port from {config.default_port} on", hint="name one with --port")


def _free(address: str, port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            listen_alone(sock)
            sock.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"port {port} is in use"
                raise PortInUse(message, hint="choose another --port") from None
            reason = error.strerror or error
            raise UsageError(f"cannot listen on {address}:{port}: {reason}") from None
        chosen: int = sock.getsockname()[1]
        return chosen
