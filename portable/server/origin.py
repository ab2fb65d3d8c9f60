"""Which web pages may use the server: their Origin, and the headers that tell a browser (CORS).

A page on the internet can send requests to 127.0.0.1 from the browser of whoever looks at it. It
cannot forge the headers that are read here.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import Response

from portable.server.config import ServerConfig

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_WEB = re.compile(r"https?://(?P<name>\[[0-9a-f:.]+\]|[^/:@\s\[\]]+)(:\d{1,5})?", re.ASCII)
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, -]{1,4096}", re.ASCII)
_EXPOSED = "x-request-id, openai-processing-ms, x-portable-clamped, retry-after, x-should-retry"


class Origins:
    """The pages that may use the server: of this machine, of its own names, and those listed."""

    def __init__(self, config: ServerConfig) -> None:
        self._listed = {origin.lower() for origin in config.cors}
        self._names = LOCAL_NAMES | {name.lower() for name in config.allowed_hosts}

    def allow(self, headers: Headers) -> bool:
        """Whether this request may have been sent. Programs send no Origin and are none of ours."""
        origin = headers.get("origin")
        if origin is not None:
            return self._may(origin.lower(), headers)
        # An image or a script that a page of somebody else's names comes without one.
        hidden = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        return hidden != ("cross-site", "no-cors") or "*" in self._listed

    def _may(self, origin: str, headers: Headers) -> bool:
        if origin == "null":  # of a sandboxed frame, which anybody can make
            return False
        if "*" in self._listed or origin in self._listed:
            return True
        # Its own page, under whatever name it was reached; a proxy may have changed the Host.
        own = origin.partition("://")[2] == headers.get("host", "").lower()
        if own or headers.get("sec-fetch-site") == "same-origin":
            return True
        found = _WEB.fullmatch(origin)
        return bool(found and found["name"] in self._names)


def headers_for(origin: str) -> dict[str, str]:
    """What lets a page of an allowed origin read the answer. Never with credentials."""
    return {"access-control-allow-origin": origin, "access-control-expose-headers": _EXPOSED}


def preflight(method: str, headers: Headers) -> Response | None:
    """The answer to a browser's question before a request, or None if it is not that."""
    asks = "origin" in headers and "access-control-request-method" in headers
    if method != "OPTIONS" or not asks:
        return None
    # Clients send many headers of their own (x-stainless-*), and the wildcard leaves some out.
    asked = headers.get("access-control-request-headers", "")
    names = asked if _NAMES.fullmatch(asked) else "authorization, content-type, x-api-key"
    answer = {
        "access-control-allow-methods": "GET, HEAD, POST, DELETE, OPTIONS",
        "access-control-allow-headers": names,
        "access-control-max-age": "600",
    }
    return Response(status_code=204, headers=answer)
