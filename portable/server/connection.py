"""One connection: uvicorn's HTTP/1.1 with time limits, and with its errors in OpenAI's shape.

uvicorn waits for ever for a head, for a body and for a reader, and an application sees neither a
head that is not complete nor what its answer waits for in the socket's buffer.
"""

from __future__ import annotations

import asyncio
import http
import sys
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from portable.server.config import ServerConfig
from portable.server.replies import encode, error_body, refuse

_TICKS = 8  # a limit, in checks
_BODY_RATE = 16 << 10  # bytes a second that a body may take longer for
_BODY_MOST = 600.0
_LINGER = 5.0  # seconds, for who still sends the body of what was refused
_PROGRESS = 4 << 10  # bytes of a waiting answer; fewer are none
_SPARE = 100  # connections beyond the most, that are told so
_REFUSED = {
    400: ("bad_http", "this is not HTTP/1.1"),
    408: ("request_timeout", "the request came too slowly"),
    431: ("too_many_headers", "the head of the request is too large"),
}


class Connection(H11Protocol):
    """Ends connections that take too long: to say what they want, or to read what they got."""

    def __init__(self, *, limits: ServerConfig, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._body_bytes = 0
        self._answered_at = 0.0
        self._unread = 0
        self._read_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self._read_at = self.loop.time()
        beyond = len(self.connections) - self._limits.max_connections
        if beyond > _SPARE:
            transport.abort()
        elif beyond > 0:
            self.app = _full
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        now, reading = self.loop.time(), self.conn.their_state
        self._head_since = (self._head_since or now) if reading is h11.IDLE else None
        if reading is not h11.SEND_BODY:
            self._body_since, self._body_bytes = None, 0
            return
        self._body_since = self._body_since or now
        self._body_bytes += len(data)

    def on_response_complete(self) -> None:
        self._answered_at = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        self._read_at = self.loop.time()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles h11's error, which may know better than 400."""
        error = sys.exception()
        known = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint in _REFUSED
        self._refuse(error.error_status_hint if known else 400)  # type: ignore[union-attr]

    def _should_upgrade(self) -> bool:
        """Never, and without uvicorn's two lines of log each time."""
        return False

    def _watch(self) -> None:
        """Called every now and then, for no single event would come when nothing happens."""
        now, limits = self.loop.time(), self._limits
        if self._stalls(now) or self._lingers(now):
            self.transport.abort()
            return
        if self._head_since and now - self._head_since > limits.head_seconds:
            self._head_since = None
            if self.conn.trailing_data[0]:
                self._refuse(408)
            else:  # browsers connect ahead and then have nothing to ask
                self.transport.close()
        elif self._body_since and now - self._body_since > self._body_seconds():
            self._body_since = None
            self._refuse(408)
        shortest = min(limits.head_seconds, limits.body_seconds, limits.stall_seconds)
        self._timer = self.loop.call_later(shortest / _TICKS, self._watch)

    def _body_seconds(self) -> float:
        return min(_BODY_MOST, self._limits.body_seconds + self._body_bytes / _BODY_RATE)

    def _lingers(self, now: float) -> bool:
        """Still sending a body that nobody wants. Closed at once, it would not see its answer."""
        sends = self.conn.their_state is h11.SEND_BODY
        answered = bool(self.cycle and self.cycle.response_complete)
        return sends and answered and now - self._answered_at > _LINGER

    def _stalls(self, now: float) -> bool:
        """Nobody reads: what waits to be sent, and is not added to, has long not become less."""
        unread = self.transport.get_write_buffer_size()
        waits = unread and (self.flow.write_paused or self.transport.is_closing())
        if not waits or unread <= self._unread - _PROGRESS:
            self._unread, self._read_at = unread, now
        self._unread = max(self._unread, unread)
        return now - self._read_at > self._limits.stall_seconds

    def _refuse(self, status: int) -> None:
        """Answer from here, if nothing was answered yet, and close."""
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True  # to the application it is as if the client had left
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        asked = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"]
        code, message = _REFUSED[status]
        body = encode(error_body(message, status=status, code=code))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        reason = http.HTTPStatus(status).phrase.encode()
        answer = h11.Response(status_code=status, headers=headers, reason=reason)
        said = self.conn.send(answer) or b""
        if asked != "HEAD":
            said += self.conn.send(h11.Data(data=body)) or b""
        self.transport.write(said)
        self.transport.close()


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": "2", "Connection": "close"}
    message = "too many connections: try again in a moment"
    await refuse(503, message, code="too_many_connections", headers=headers)(scope, receive, send)
