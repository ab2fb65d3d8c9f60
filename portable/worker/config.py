"""Where a worker listens and what it lends, checked when it is made."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from portable.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """`port` None takes 50052 or the next free one. `threads` 0 is one per performance core.

    `memory` in bytes is the most that is lent, 0 what is free; `devices` are llama.cpp's names,
    none are all. Weights that came over the network lie in the folder `cache`, if there is one.
    Raises UsageError for an address that others could reach.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    threads: int = 0
    memory: int = 0
    devices: tuple[str, ...] = ()
    cache: Path | None = None
    insecure: bool = False

    default_port = 50052

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is not a port", hint="a number up to 65535")
        if not 0 <= self.threads <= 512:
            raise UsageError(f"--threads is {self.threads}", hint="a number from 0 to 512")
        if not (self.is_loopback or self.insecure):
            raise UsageError(
                f"ggml's RPC has no key and no encryption: whoever reaches {self.host} could use"
                " this machine, and try to take it over",
                hint="leave --host out and let the other machine come by `ssh -L`,"
                " or add --insecure in a network that is yours alone",
            )

    @property
    def address(self) -> str:
        """IPv4 in numbers, which is all that ggml listens on. Raises UsageError."""
        try:
            found = socket.getaddrinfo(self.host, None, socket.AF_INET, socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            hint = "an IPv4 address of this machine, or 0.0.0.0"
            raise UsageError(f"--host {self.host!r} is no IPv4 address here", hint=hint) from None
        return str(found[0][4][0])

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback
