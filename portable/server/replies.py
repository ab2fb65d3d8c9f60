"""Answers, and errors in the shape of the API that was asked."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from portable.errors import Busy, PortableError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}
_CODES = {404: "not_found", 405: "method_not_allowed"}
_FOLDERS = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)(?:[^/\\:'\"`]+[/\\])+")
encode = msgspec.json.Encoder().encode


class JSON(Response):
    """A JSON response; Chinese stays readable."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)


def error_body(
    message: str, *, status: int = 500, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object; `object` and `message` at the top are what ms-swift's client reads."""
    default = "invalid_request_error" if status < 500 else "server_error"
    error = {
        "message": message,
        "type": _TYPES.get(status, default),
        "param": param,
        "code": code,
    }
    return {"error": error, "object": "error", "message": message}


def anthropic_error(message: str, *, status: int = 500) -> dict[str, Any]:
    """Anthropic's error object."""
    default = "invalid_request_error" if status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(status) or _TYPES.get(status, default)
    return {"type": "error", "error": {"type": kind, "message": message}}


def shown(message: str) -> str:
    """What went wrong here, without the folders of this machine: those are for the log."""
    return _FOLDERS.sub("", message)


class Refusal(JSON):
    """An error, in Anthropic's shape on its routes and else in OpenAI's."""

    def __init__(
        self, status: int, openai: Any, anthropic: Any, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(openai, status, headers)
        self._anthropic = JSON(anthropic, status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/v1/messages"):
            return await self._anthropic(scope, receive, send)
        await super().__call__(scope, receive, send)


def refuse(
    status: int,
    message: str,
    *,
    code: str | None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Refusal:
    openai = error_body(message, status=status, code=code, param=param)
    return Refusal(status, openai, anthropic_error(message, status=status), headers)


async def from_error(_: Request, error: Exception) -> Refusal:
    """The HTTP edge of the error tree."""
    assert isinstance(error, PortableError)
    # What a client did wrong it may read in its own words.
    message = str(error) if error.status < 500 else shown(str(error))
    headers = {}
    if isinstance(error, Busy):
        headers = {"Retry-After": str(math.ceil(error.seconds)), "x-should-retry": "true"}
    return refuse(error.status, message, code=error.code, param=error.param, headers=headers)


async def from_http(request: Request, error: Exception) -> Refusal:
    """starlette's own refusals: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path']:.200}: {error.detail}"
    code = _CODES.get(error.status_code, "http_error")
    return refuse(error.status_code, message, code=code, headers=dict(error.headers or {}))


async def from_defect(_: Request, error: Exception) -> Refusal:
    """A defect of ours: told without its traceback, which uvicorn logs."""
    return refuse(500, "an unexpected error; the server's log has it", code="internal_error")


class ClientLeft(Exception):
    """Nobody is left to read the answer."""


async def from_client_left(_: Request, error: Exception) -> Response:
    """Never seen by the client; 499 is what the log shows, as nginx does."""
    return Response(status_code=499)


# All of them async: starlette gives others a thread each time.
HANDLERS = {
    PortableError: from_error,
    HTTPException: from_http,
    ClientLeft: from_client_left,
    ClientDisconnect: from_client_left,
    Exception: from_defect,
}
