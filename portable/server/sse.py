"""Answers as server-sent events that the OpenAI clients and ms-swift's client both survive.

Measured: an SSE comment as keep-alive hangs ms-swift's client for ever, a chunk without `content`
breaks the tutorial's openai script. So every event is a `data:` chunk with a text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import msgspec
from starlette.responses import StreamingResponse

from portable.engine.sequence import Delta, Usage
from portable.server.replies import error_body

Chunk = dict[str, Any]
_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream that no proxy holds back."""

    def __init__(self, events: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        no_buffer = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        media = "text/event-stream; charset=utf-8"
        super().__init__(events, headers=no_buffer | headers, media_type=media)


def event(chunk: Chunk) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"


def error_event(message: str, code: str | None) -> bytes:
    """An error after the first byte, for both kinds of clients."""
    return event(error_body(message, code=code))


async def with_keep_alive(
    deltas: AsyncIterable[Delta], seconds: float
) -> AsyncIterator[Delta | None]:
    """The deltas, and None for each `seconds` of silence."""
    source = aiter(deltas)
    waiting: asyncio.Future[Delta] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({waiting}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                delta = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield delta
    finally:
        if waiting:
            waiting.cancel()


def usage(used: Usage | None, prompt_tokens: int = 0) -> dict[str, Any]:
    """OpenAI's usage object; a request that was cut short has at least read its prompt."""
    used = used or Usage(prompt_tokens, 0, 0)
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }


def timings(used: Usage | None) -> dict[str, Any]:
    """Where the time went, in seconds and tokens a second."""
    if used is None:
        return {}
    return {
        "queue_seconds": round(used.queue_seconds, 4),
        "prompt_seconds": round(used.prompt_seconds, 4),
        "decode_seconds": round(used.decode_seconds, 4),
        "prompt_per_second": round(used.prompt_rate, 2),
        "predicted_per_second": round(used.decode_rate, 2),
    }
