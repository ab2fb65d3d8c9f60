"""This machine's own network: the server's usual port, and proxies that loopback must not use."""

from __future__ import annotations

import errno
import importlib.util
import socket
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portable import platforms
from portable.doctor.finding import Finding

PORT = 8000
_LOOPBACK = "localhost,127.0.0.1,::1"


@dataclass(frozen=True)
class Network:
    """`proxies` by scheme; `bypassed`: not for loopback; `socks`: their protocol is understood."""

    is_port_free: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict)
    bypassed: bool = True
    socks: bool = True


def gather() -> Network:
    proxies = {
        k: v for k, v in urllib.request.getproxies().items() if k in ("http", "https", "all")
    }
    bypassed = all(urllib.request.proxy_bypass(name) for name in ("127.0.0.1", "localhost"))
    # requests needs the first for it (ModelScope's client), httpx the second (Hugging Face's).
    socks = all(importlib.util.find_spec(name) for name in ("socks", "socksio"))
    return Network(_is_free(PORT), proxies, bypassed, socks)


def judge(facts: Network, kind: str = sys.platform) -> Iterator[Finding]:
    """`kind` is sys.platform."""
    if facts.is_port_free:
        yield Finding("port", "OK", f"{PORT} is free for portable serve")
    else:
        yield Finding(
            "port",
            "WARN",
            f"{PORT} is taken: portable serve takes the next free one, clients have to know it",
            "end the program that has it, or name another port",
            f"portable serve MODEL --port {PORT + 80}",
        )
    if facts.proxies:
        yield _proxies(facts, kind)


def _proxies(facts: Network, kind: str) -> Finding:
    named = ", ".join(sorted(f"{scheme}_proxy" for scheme in facts.proxies))
    if not facts.bypassed and facts.proxies.keys() & {"http", "all"}:
        exported = (
            f'$env:NO_PROXY="{_LOOPBACK}"' if kind == "win32" else f"export no_proxy={_LOOPBACK}"
        )
        return Finding(
            "proxy",
            "WARN",
            f"{named}: clients send requests to this machine's own server to the proxy, too",
            "leave loopback out",
            exported,
        )
    if any(url.startswith("socks") for url in facts.proxies.values()) and not facts.socks:
        return Finding(
            "proxy",
            "WARN",
            f"{named}: a SOCKS proxy, which the hubs' clients do not understand as installed",
            "add the packages for it",
            f"{sys.executable} -m pip install pysocks socksio",
        )
    return Finding("proxy", "OK", f"{named}: not for this machine itself")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        platforms.listen_alone(sock)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
