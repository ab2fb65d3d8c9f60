"""Errors and answers in OpenAI's shape, with what ms-swift's client needs beside it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from portable.errors import Busy, PortableError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES = {404: "not_found", 405: "method_not_allowed"}
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


def refuse(status: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> JSON:
    return JSON(error_body(message, status=status, code=code), status, headers)


async def from_error(_: Request, error: Exception) -> JSON:
    """The HTTP edge of the error tree."""
    assert isinstance(error, PortableError)
    body = error_body(str(error), status=error.status, code=error.code, param=error.param)
    headers = {}
    if isinstance(error, Busy):
        headers = {"Retry-After": str(math.ceil(error.seconds)), "x-should-retry": "true"}
    return JSON(body, error.status, headers)


async def from_http(request: Request, error: Exception) -> JSON:
    """starlette's own refusals: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.scope['path']:.200}: {error.detail}"
    code = _CODES.get(error.status_code, "http_error")
    return refuse(error.status_code, message, code=code, headers=dict(error.headers or {}))


async def from_defect(_: Request, error: Exception) -> JSON:
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
