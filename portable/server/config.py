"""Every default of the server, once, checked when it is made; knows nothing of the engine's."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from portable.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens, and for whom.

    `port` None takes 8000 or the next free one. A model's process that is silent for
    `silent_seconds` is ended and started again. Raises UsageError for an address that anybody
    could reach without a key.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    api_keys: tuple[str, ...] = ()
    insecure: bool = False
    any_model: bool = False
    fail_while_loading: bool = False
    keep_alive_seconds: float = 10.0
    status_after_seconds: float = 10.0
    drain_seconds: float = 10.0
    silent_seconds: float = 30.0
    max_body: int = 8 << 20

    default_port = 8000

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is not a port", hint="a number up to 65535")
        if any(not key.strip() or not key.isascii() for key in self.api_keys):
            raise UsageError("an API key is empty or not ASCII")
        if not (self.is_loopback or self.api_keys or self.insecure):
            raise UsageError(
                f"anybody who reaches {self.host} could use the model",
                hint="add --api-key KEY, or --insecure if that is meant",
            )

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
