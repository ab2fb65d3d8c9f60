"""What stands before every route: Host, Origin, key and body size, as plain ASGI."""

from __future__ import annotations

import hmac
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portable.errors import PortableError
from portable.server import origin, static
from portable.server.config import ServerConfig
from portable.server.replies import JSON, refuse

PUBLIC = {"/health", "/v1/health", "/healthz", "/livez", "/readyz", "/ping"}
_MAX_FIELDS = 100


class BodyTooLarge(PortableError):
    status = 413
    code = "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


class Guard:
    """Refuses before the first byte of a body is read."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._keys = [key.encode() for key in config.api_keys]
        self._max_body = config.max_body
        self._prefix = config.root_path
        self._origins = origin.Origins(config)
        # A page on the internet can point its own name at 127.0.0.1; it cannot forge this header.
        named = {name.lower() for name in config.allowed_hosts}
        known = origin.LOCAL_NAMES | named | {config.host}
        self._hosts = known if config.is_loopback or named else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        scope["path"] = self._path(scope["path"])
        allowed = self._origins.allow(headers)
        send = _readable(send, headers, allowed)
        refusal = self._stranger(headers, allowed) or origin.preflight(scope["method"], headers)
        refusal = refusal or self._keyless(scope["path"], headers) or self._malformed(headers)
        if refusal:
            return await refusal(scope, receive, send)
        await self._app(scope, self._limited(receive), send)

    def _path(self, path: str) -> str:
        """Without the proxy's prefix, if that came along: some proxies take it off."""
        rest = path.removeprefix(self._prefix)
        return rest if rest.startswith("/") else path

    def _stranger(self, headers: Headers, allowed: bool) -> JSON | None:
        if self._hosts and _host(headers) not in self._hosts:
            return refuse(403, "this Host is not served here", code="host_not_allowed")
        if not allowed:
            message = "web pages of this Origin may not use this server"
            return refuse(403, message, code="origin_not_allowed")
        return None

    def _keyless(self, path: str, headers: Headers) -> JSON | None:
        if not self._keys or path in PUBLIC | static.PATHS or self._knows(headers):
            return None
        return refuse(
            401,
            "the API key is missing or wrong: send `Authorization: Bearer KEY`",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _knows(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if scheme.lower() == "bearer" else []
        given += headers.getlist("x-api-key")[:1]
        # All keys are compared, so that the time does not tell which one was nearly right.
        same = [hmac.compare_digest(key.encode(), known) for key in given for known in self._keys]
        return any(same)

    def _malformed(self, headers: Headers) -> Response | None:
        """What the head says of the body, if no good can come of it."""
        if len(headers) > _MAX_FIELDS:
            return refuse(431, f"more than {_MAX_FIELDS} header fields", code="too_many_headers")
        if "transfer-encoding" in headers and "content-length" in headers:
            # Two servers in a row could disagree on where this request ends.
            message = "both Content-Length and Transfer-Encoding: send one"
            return refuse(400, message, code="ambiguous_length", headers={"Connection": "close"})
        if headers.get("content-encoding", "identity") != "identity":
            message = "compressed bodies are not read: send it as it is"
            return refuse(415, message, code="unsupported_content_encoding")
        if headers.get("content-type", "").lower().startswith("multipart/"):
            message = "forms are not read: send JSON"
            return refuse(415, message, code="unsupported_media_type")
        length = headers.get("content-length", "0")
        if len(length) > 15 or int(length) > self._max_body:
            error = BodyTooLarge(self._max_body)
            return refuse(error.status, error.message, code=error.code)
        return None

    def _limited(self, receive: Receive) -> Receive:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise BodyTooLarge(self._max_body)
            return message

        return limited


def _host(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host if host.endswith("]") else re.sub(r":\d+$", "", host)


def _readable(send: Send, headers: Headers, allowed: bool) -> Send:
    """Tell the browser whether its page may read the response, and to take it as what it is."""
    page = origin.headers_for(headers["origin"]) if allowed and "origin" in headers else {}

    async def readable(message: Message) -> None:
        if message["type"] == "http.response.start":
            out = MutableHeaders(scope=message)
            out["x-content-type-options"] = "nosniff"
            out.update(page)
            out.add_vary_header("Origin")
        await send(message)

    return readable
