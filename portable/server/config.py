"""Every default of the server, once, checked when it is made; knows nothing of the engine's."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from portable.errors import UsageError

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", re.ASCII | re.IGNORECASE)
_PREFIX = re.compile(r"(/[\w.~-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens, and for whom.

    `port` None takes 8000 or the next free one. `allowed_hosts` are the names that it is reached by
    beside its own, behind a proxy for one; `cors` the origins of web pages that may use it beside
    this machine's; `root_path` the prefix under which a proxy shows it. A model's process that is
    silent for `silent_seconds` is ended and started again. With `strict` a field that no endpoint
    knows is an error.

    The log tells what was done each `log_seconds`, if anything (0: never), and prompts only with
    `log_prompts`.

    A client has `head_seconds` for the head of a request, `body_seconds` for its body (and more
    while it comes fast enough), `idle_seconds` between two requests, and `stall_seconds` to read
    something of its answer. Sizes are in bytes. Raises UsageError for an address that anybody could
    reach without a key, and for what is none of what it should be.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    root_path: str = ""
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    any_model: bool = False
    fail_while_loading: bool = False
    strict: bool = False
    keep_alive_seconds: float = 10.0
    status_after_seconds: float = 10.0
    drain_seconds: float = 10.0
    silent_seconds: float = 30.0
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_seconds: float = 20.0
    log_prompts: bool = False
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: int = 60
    stall_seconds: float = 30.0
    # More than any context's text, and parsed in a few hundredths of a second.
    max_body: int = 8 << 20
    max_head: int = 64 << 10
    # Fewer than the 1024 files that a process may usually have open.
    max_connections: int = 800

    default_port = 8000

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is not a port", hint="a number up to 65535")
        if any(not key.strip() or not key.isascii() for key in self.api_keys):
            raise UsageError("an API key is empty or not ASCII")
        if self.max_body < 1:
            raise UsageError("--max-body must leave room for a request", hint="such as 8MB")
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin):
                hint = "such as https://chat.example:8443, or * for any"
                raise UsageError(f"--cors {origin!r} is no origin", hint=hint)
        if not _PREFIX.fullmatch(self.root_path):
            hint = "such as /llm: a slash first, none last"
            raise UsageError(f"--root-path {self.root_path!r} is no prefix", hint=hint)
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
