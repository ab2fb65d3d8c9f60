"""What stands before every route: Host, key, body size and request id, as plain ASGI."""

from __future__ import annotations

import hmac
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portable.errors import PortableError
from portable.server.config import ServerConfig
from portable.server.replies import refuse

PUBLIC = {"/health", "/v1/health", "/healthz", "/livez", "/readyz", "/ping"}
_LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]"}
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class BodyTooLarge(PortableError):
    status = 413
    code = "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


class Guard:
    """Refuses before the first byte of a body is read, and names each answer by its request id."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._keys = [key.encode() for key in config.api_keys]
        self._max_body = config.max_body
        # A page on the internet can point its own name at 127.0.0.1; it cannot forge this header.
        self._hosts = {*_LOCAL_NAMES, config.host} if config.is_loopback else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        send = _named(send, headers)
        if self._hosts and _host(headers) not in self._hosts:
            answer = refuse(403, "this Host is not served here", code="host_not_allowed")
            return await answer(scope, receive, send)
        if self._keys and scope["path"] not in PUBLIC and not self._knows(headers):
            answer = refuse(
                401,
                "the API key is missing or wrong: send `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            return await answer(scope, receive, send)
        length = headers.get("content-length", "0")
        if len(length) > 15 or int(length) > self._max_body:
            error = BodyTooLarge(self._max_body)
            answer = refuse(error.status, error.message, code=error.code)
            return await answer(scope, receive, send)
        await self._app(scope, self._limited(receive), send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if scheme.lower() == "bearer" else []
        given += headers.getlist("x-api-key")[:1]
        # All keys are compared, so that the time does not tell which one was nearly right.
        same = [hmac.compare_digest(key.encode(), known) for key in given for known in self._keys]
        return any(same)

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


def _named(send: Send, headers: Headers) -> Send:
    """Add the request's id and its time to the response."""
    started = time.perf_counter()
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            out = MutableHeaders(scope=message)
            out["x-request-id"] = request_id
            out["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
        await send(message)

    return named
