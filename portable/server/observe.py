"""A record of each request: its id, how it went, what it took; counted, and one line in the log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portable.engine.sequence import Usage
from portable.server.guard import PUBLIC
from portable.server.metrics import Metrics, Totals

log = logging.getLogger("portable.access")

_KEY = "portable.record"
_CLIENT_LEFT = 499
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(slots=True)
class Record:
    """One request, from its head to the last byte of its answer. Times are of `perf_counter`."""

    id: str
    metrics: Metrics
    started: float = field(default_factory=time.perf_counter)
    model: str = ""
    status: int = 0
    ended: bool = False
    spent: list[Usage] = field(default_factory=list)
    _token_at: dict[int, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def token(self, index: int) -> None:
        """Text of the answer of that index came."""
        now = time.perf_counter()
        if before := self._token_at.get(index):
            self.metrics.next_token(self.model, now - before)
        else:
            self.metrics.first_token(self.model, now - self.started)
        self._token_at[index] = now

    def finish(self, used: Usage) -> None:
        """One of its answers came to its end."""
        self.spent.append(used)
        self.metrics.spent(self.model, used)

    def fields(self) -> dict[str, Any]:
        """What the log tells: never a prompt."""
        told: dict[str, Any] = {"status": self.status, "seconds": round(self.seconds, 3)}
        if self.model:
            told["model"] = self.model
        if self.spent:
            used = self.spent[0]
            told |= {
                "prompt_tokens": used.prompt_tokens,
                "cached_tokens": used.cached_tokens,
                "prompt_per_second": round(used.prompt_rate, 1),
                "generated_tokens": sum(one.completion_tokens for one in self.spent),
                "tokens_per_second": round(sum(one.decode_rate for one in self.spent), 1),
                "queue_seconds": round(used.queue_seconds, 3),
            }
        return told


def record_of(request: Request) -> Record:
    """The record that the Observer made for this request."""
    record: Record = request.scope[_KEY]
    return record


class Observer:
    """Outermost: sees every request and its end, refusals and defects included."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        own = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        record = scope[_KEY] = Record(own, self._metrics)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = record.id
                out["openai-processing-ms"] = str(round(record.seconds * 1000))
            elif not message.get("more_body"):
                record.ended = True
            await send(message)

        try:
            await self._app(scope, receive, named)
        finally:
            self._close(record, scope)

    def _close(self, record: Record, scope: Scope) -> None:
        if not record.ended:
            record.status = _CLIENT_LEFT
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.answered(route, record.status, record.model, record.seconds)
        # Whoever asks every second how the server is need not fill the log.
        matters = record.model or (record.status >= 400 and scope["path"] not in PUBLIC)
        # As it came: what it says may be a line of log, or a command for a terminal.
        path = quote(scope["path"])[:200]
        log.log(
            logging.INFO if matters else logging.DEBUG,
            "%s %s %s",
            *(record.id, scope["method"], path),
            extra={"fields": record.fields()},
        )


async def tell(totals: Totals, seconds: float) -> None:
    """Every so many seconds a line with what was done in them; 0: never."""
    while seconds:
        await asyncio.sleep(seconds)
        if done := totals.take():
            logging.getLogger("portable").info("%s", done)
