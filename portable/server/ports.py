"""Which port the server listens on; the sockets are open before anything is loaded."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import psutil

from portable.errors import PortInUse, UsageError
from portable.server.config import ServerConfig

_BACKLOG = 2048


def choose_port(config: ServerConfig, say: Callable[[str], None]) -> int:
    """The port that `listen` would take now. Raises PortInUse or UsageError."""
    sockets = listen(config, say)
    port: int = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    return port


def listen(config: ServerConfig, say: Callable[[str], None]) -> list[socket.socket]:
    """Sockets on the port that was asked for, or on 8000 or the next free one.

    Raises PortInUse or UsageError.
    """
    if config.port is not None:
        return _open(config.host, config.port)
    for port in range(config.default_port, config.default_port + 100):
        try:
            return _open(config.host, port)
        except PortInUse as error:
            say(f"{error.message}; trying the next port")
    raise PortInUse(f"no free port from {config.default_port} on", hint="name one with --port")


def url(sock: socket.socket) -> str:
    """Where a client finds it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _open(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of the host: localhost may have two."""
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            # The first address may have chosen the port for the others.
            chosen = sockets[0].getsockname()[1] if sockets else port
            place = (address[0], chosen, *address[2:])
            sockets.append(socket.create_server(place, family=family, backlog=_BACKLOG))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL and sockets:  # IPv6 is switched off
            return sockets
        for sock in sockets:
            sock.close()
        if error.errno != errno.EADDRINUSE:
            reason = error.strerror or error
            raise UsageError(f"cannot listen on {host}:{port}: {reason}") from None
        message = f"port {port} is in use{_holder(port)}"
        raise PortInUse(message, hint="choose another --port") from None
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """IPv4 first, for it is always there."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return sorted({(int(entry[0]), entry[4]) for entry in found})


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
