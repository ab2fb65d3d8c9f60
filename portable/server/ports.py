"""Which port the server listens on; the sockets are open before anything is loaded."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import psutil

from portable.errors import PortInUse, UsageError
from portable.platforms import listen_alone
from portable.server.config import ServerConfig

_BACKLOG = 2048
# Bytes of an answer that the system keeps for who does not read; left alone it takes megabytes.
_UNREAD = 64 << 10


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


def url(sock: socket.socket, secure: bool = False) -> str:
    """Where a client finds it."""
    host, port = sock.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _open(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of the host: localhost may have two."""
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            # The first address may have chosen the port for the others.
            chosen = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_listener(family, (address[0], chosen, *address[2:])))
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


def _listener(family: int, address: Any) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is named: without that, each
    # small answer on a kept connection takes 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listen_alone(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


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
