"""Asks a worker who it is and what it offers, before llama.cpp does: that aborts where this raises.

ggml's RPC: a request is a command (u8), a size (u64) and as many bytes; a reply a size and bytes.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from portable.engine.rpc.endpoint import parts
from portable.errors import Busy, NetworkError

# Of the pinned llama.cpp; the last number changes with ggml's operations, whose numbers are sent.
PROTOCOL = (7, 0, 0)
SECONDS = 5.0

_GET_DEVICE_MEMORY, _HELLO, _DEVICE_COUNT = 11, 14, 15
_REQUEST = struct.Struct("<BQ")
_SIZE = struct.Struct("<Q")
_CAPABILITIES = 24  # bytes; all zero: TCP and nothing else
_VERSION = struct.Struct(f"<4B{_CAPABILITIES}s")
_COUNT = struct.Struct("<I")
_MEMORY = struct.Struct("<QQ")
_MOST_DEVICES = 64
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Offer:
    """What one device of a worker has free, and in all, in bytes."""

    free: int
    total: int


def ask(endpoint: str, seconds: float = SECONDS, patience: float = 0.0) -> tuple[Offer, ...]:
    """What each of a worker's devices offers.

    A worker that is not there is waited for `patience` seconds: it may be starting again.
    Raises NetworkError for who is none, is not there or has another version, and Busy for who says
    nothing.
    """
    end = time.monotonic() + patience
    while True:
        try:
            with _connected(endpoint, seconds) as line:
                return line.offers()
        except TimeoutError:
            raise Busy(
                f"the worker {endpoint} says nothing: it is another client's, hangs, or is none",
                hint="a worker serves one client at a time; end that one, or start it again",
            ) from None
        except (OSError, struct.error) as error:
            if time.monotonic() > end:
                raise _useless(endpoint, error) from None
            time.sleep(_PAUSE)


def _useless(endpoint: str, error: Exception) -> NetworkError:
    if isinstance(error, ConnectionRefusedError):
        return NetworkError(
            f"no worker listens at {endpoint}",
            hint="start `portable worker` there, or the SSH tunnel to it",
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.strerror:
        return NetworkError(f"the worker {endpoint} cannot be reached: {error.strerror}")
    return NetworkError(
        f"what listens at {endpoint} is no worker of this version",
        hint="run the same portable on both machines; behind an SSH tunnel, is the worker running?",
    )


class _Line:
    """A connection to a worker, with one deadline for all that is said on it."""

    def __init__(self, sock: socket.socket, endpoint: str, end: float) -> None:
        self._sock = sock
        self._endpoint = endpoint
        self._end = end

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def offers(self) -> tuple[Offer, ...]:
        version = _VERSION.unpack(self._ask(_HELLO, bytes(_CAPABILITIES), _VERSION.size))[:3]
        if version != PROTOCOL:
            theirs, ours = (".".join(map(str, numbers)) for numbers in (version, PROTOCOL))
            raise NetworkError(
                f"the worker {self._endpoint} speaks ggml's RPC {theirs}, this machine {ours}",
                hint="install the same version of portable on both",
            )
        (count,) = _COUNT.unpack(self._ask(_DEVICE_COUNT, b"", _COUNT.size))
        if not 0 < count <= _MOST_DEVICES:
            raise NetworkError(f"the worker {self._endpoint} offers {count} devices")
        memory = [self._ask(_GET_DEVICE_MEMORY, _COUNT.pack(i), _MEMORY.size) for i in range(count)]
        return tuple(Offer(*_MEMORY.unpack(each)) for each in memory)

    def _ask(self, command: int, data: bytes, size: int) -> bytes:
        self._sock.sendall(_REQUEST.pack(command, len(data)) + data)
        if (said := _SIZE.unpack(self._read(_SIZE.size))[0]) != size:
            raise struct.error(f"{said} bytes instead of {size}")
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if (left := self._end - time.monotonic()) <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
            if not (got := self._sock.recv(size - len(data))):
                raise struct.error("the connection ends")
            data += got
        return data


def address(endpoint: str) -> str:
    """A worker's IPv4, looked up as ggml does it. Raises OSError."""
    return socket.gethostbyname(parts(endpoint)[0])


def _connected(endpoint: str, seconds: float) -> _Line:
    end = time.monotonic() + seconds
    try:
        sock = socket.create_connection((address(endpoint), parts(endpoint)[1]), seconds)
        return _Line(sock, endpoint, end)
    except (socket.gaierror, UnicodeError):
        raise NetworkError(f"--rpc {endpoint}: no machine of this name is known") from None
    except TimeoutError:
        raise NetworkError(
            f"the worker {endpoint} does not answer",
            hint="is the machine on and in this network? or others wait for its worker already",
        ) from None
