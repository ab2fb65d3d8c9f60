"""Server-sent events: the response that carries them, and the silences between deltas."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from portable.engine.sequence import Delta
from portable.server.stream import Stream

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream that no proxy holds back; `close` is called at its end, however it ends."""

    def __init__(
        self, events: AsyncIterator[bytes], headers: dict[str, str], close: Callable[[], None]
    ) -> None:
        no_buffer = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        media = "text/event-stream; charset=utf-8"
        super().__init__(events, headers=no_buffer | headers, media_type=media)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator's own `finally`: one that was never begun has none, and a client
        # can leave before the first byte.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"


def named_event(data: dict[str, Any]) -> bytes:
    """An event under the name of its type, as the APIs want it that have several."""
    name: str = data["type"]
    return b"event: " + name.encode() + b"\n" + event(data)


async def with_keep_alive(
    streams: list[Stream], seconds: float, progress: bool = False
) -> AsyncIterator[tuple[int, Delta | None]]:
    """The deltas that say something, by the index of their stream; None for each silence.

    With `progress` that of reading the prompt counts as something.
    """
    if len(streams) > 1:
        async for item in _merged(streams, seconds, progress):
            yield item
        return
    while True:
        delta = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (delta and _says(delta, progress)):
                    delta = await streams[0].next()
        yield 0, (delta if delta and _says(delta, progress) else None)
        if delta and delta.finish_reason:
            return


async def _merged(
    streams: list[Stream], seconds: float, progress: bool
) -> AsyncIterator[tuple[int, Delta | None]]:
    """Several streams as one. A task for each costs more than awaiting one stream."""
    waiting = {asyncio.ensure_future(stream.next()): at for at, stream in enumerate(streams)}
    now = asyncio.get_running_loop().time
    silent_at = now() + seconds
    try:
        while waiting:
            done, _ = await asyncio.wait(
                waiting, timeout=silent_at - now(), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                at, delta = waiting.pop(task), task.result()
                if not delta.finish_reason:
                    waiting[asyncio.ensure_future(streams[at].next())] = at
                if _says(delta, progress):
                    yield at, delta
                    silent_at = now() + seconds
            if waiting and now() >= silent_at:
                yield next(iter(waiting.values())), None
                silent_at = now() + seconds
    finally:
        for task in waiting:
            task.cancel()


def _says(delta: Delta, progress: bool) -> bool:
    """Whether a client gets to see something of it: half characters, for one, are not sent."""
    return bool(delta.text or delta.finish_reason or (progress and delta.progress))
