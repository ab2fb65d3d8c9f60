"""Workers as people name them: HOST:PORT,HOST:PORT. Pure."""

from __future__ import annotations

from portable.errors import UsageError


def endpoints(text: str) -> tuple[str, ...]:
    """Each worker once, as `host:port`. Raises UsageError for what is none."""
    found = [_checked(part.strip()) for part in text.split(",") if part.strip()]
    return tuple(dict.fromkeys(found))


def parts(endpoint: str) -> tuple[str, int]:
    """Host and port of what `endpoints` let through."""
    host, _, port = endpoint.rpartition(":")
    return host, int(port)


def _checked(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--rpc {text!r} is no HOST:PORT", hint="such as 192.168.1.20:50052")
    if ":" in host:  # ggml takes all after the first colon for the port
        raise UsageError(f"--rpc {text!r}: ggml's RPC knows IPv4 only", hint="use a name or IPv4")
    return f"{host}:{int(port)}"
