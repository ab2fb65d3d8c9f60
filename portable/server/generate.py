"""One request's way through the server: sent to the model, read as one answer or as a stream.

From `accepted` on the status line may be sent; a client that leaves takes its request with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from portable import __version__
from portable.engine.sequence import Delta, Usage
from portable.errors import Busy, EngineError, PortableError
from portable.server import sse
from portable.server.config import ServerConfig
from portable.server.model import MakeCommand, ModelProcess, Stream
from portable.server.replies import ClientLeft

T = TypeVar("T")
log = logging.getLogger("portable")


class Loading(Busy):
    """The model is not ready and the operator asked not to wait."""

    code = "model_loading"


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    text: str
    finish_reason: str
    usage: Usage | None


@dataclass(slots=True)
class Ask:
    """One answer that is wanted; the prompt's number of tokens is known once it is accepted."""

    id: str
    command: MakeCommand
    prompt_tokens: int | None = None


@dataclass(slots=True)
class Envelope:
    """What all parts of one reply share, and how they are laid out on the wire.

    `start`, `delta` and `finish` build the `choices` of a first, a middle and a last chunk of the
    answer of that index.
    """

    kind: str
    model: str
    prefix: str
    start: Callable[[int], list[dict[str, Any]]] | None
    delta: Callable[[int, str], list[dict[str, Any]]]
    finish: Callable[[int, str], list[dict[str, Any]]]
    include_usage: bool = False
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> sse.Chunk:
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"portable-{__version__}",
            "choices": choices,
            **more,
        }


class Generator:
    """Asks one model process; shared by all endpoints that make text."""

    def __init__(self, model: ModelProcess, config: ServerConfig) -> None:
        self._model = model
        self._config = config

    def open(self, id: str, command: MakeCommand) -> Stream:
        """Send the request. Raises QueueFull, or Loading if nobody shall wait for the model."""
        if self._config.fail_while_loading and not self._model.ready.is_set():
            raise Loading("the model is loading", hint="try again in a few seconds")
        return self._model.open(id, command)

    async def accepted(self, request: Request, stream: Stream, *, patient: bool) -> int | None:
        """The prompt's number of tokens once the model has taken it; raises what it refuses with.

        An impatient caller gets None after `status_after_seconds`, while the model is still loading
        or a very long prompt is read: its stream begins, and an error comes as an event.
        """
        limit = None if patient else self._config.status_after_seconds
        try:
            return await asyncio.wait_for(
                _unless_left(request, asyncio.shield(stream.accepted)), limit
            )
        except TimeoutError:
            return None
        except BaseException:
            self._model.close(stream)
            raise

    async def answer(self, request: Request, stream: Stream) -> Answer:
        """All of it. Raises EngineError, or ClientLeft."""
        try:
            return await _unless_left(request, _collect(stream))
        finally:
            self._model.close(stream)

    async def answers(self, request: Request, asks: list[Ask]) -> list[Answer]:
        """Whole answers, decoded together; the first error stops the others and is raised."""

        async def one(ask: Ask) -> Answer:
            stream = self.open(ask.id, ask.command)
            ask.prompt_tokens = await self.accepted(request, stream, patient=True)
            return await self.answer(request, stream)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(ask)) for ask in asks]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def streams(self, request: Request, asks: list[Ask]) -> list[Stream]:
        """A stream for each, accepted; or the first error, and none of them runs."""
        opened: list[Stream] = []
        try:
            for ask in asks:
                opened.append(self.open(ask.id, ask.command))
            for ask, stream in zip(asks, opened, strict=True):
                ask.prompt_tokens = await self.accepted(request, stream, patient=False)
        except BaseException:
            self._close(opened)
            raise
        return opened

    def stream(
        self, streams: list[Stream], envelope: Envelope, headers: dict[str, str]
    ) -> sse.EventStream:
        """The answers as events, as they come; a client that leaves cancels the request."""
        events = self._events(streams, envelope)
        return sse.EventStream(events, headers, lambda: self._close(streams))

    def _close(self, streams: list[Stream]) -> None:
        for stream in streams:
            self._model.close(stream)

    async def _events(self, streams: list[Stream], envelope: Envelope) -> AsyncIterator[bytes]:
        if envelope.start:
            for index in range(len(streams)):
                yield sse.event(envelope.chunk(envelope.start(index)))
        spent: list[Usage] = []
        async for index, delta in sse.with_keep_alive(streams, self._config.keep_alive_seconds):
            if delta is None:
                yield sse.event(envelope.chunk(envelope.delta(index, "")))
            elif delta.error:
                code, message = delta.error
                yield sse.error_event(message, code)
                break
            else:
                for part in _chunks(index, delta, envelope):
                    yield sse.event(part)
                if delta.usage:
                    spent.append(delta.usage)
        if envelope.include_usage and spent:
            yield sse.event(envelope.chunk([], usage=sse.usage(*spent)))
        yield sse.DONE


def _chunks(index: int, delta: Delta, envelope: Envelope) -> list[sse.Chunk]:
    """The chunks of one delta; the last text comes before the reason, as all clients expect."""
    parts = [envelope.chunk(envelope.delta(index, delta.text))] if delta.text else []
    if delta.finish_reason:
        own = {} if envelope.include_usage else {"usage": sse.usage(delta.usage)}
        last = envelope.finish(index, delta.finish_reason)
        parts.append(envelope.chunk(last, **own, timings=sse.timings(delta.usage)))
        log_usage(delta.usage)
    return parts


async def _collect(stream: Stream) -> Answer:
    texts: list[str] = []
    async for delta in stream:
        texts.append(delta.text)
        if delta.error:
            raise _as_error(delta)
        if delta.finish_reason:
            log_usage(delta.usage)
            return Answer("".join(texts), delta.finish_reason, delta.usage)
    raise EngineError("the answer ended without a reason")


def _as_error(delta: Delta) -> PortableError:
    code, message = delta.error or ("backend_error", "")
    error = EngineError(message)
    error.code = code
    return error


async def _unless_left(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, but stop it when the client closes the connection."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        watch.cancel()
        task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def log_usage(used: Usage | None) -> None:
    """One line a request: tokens and speed, never a prompt."""
    if used:
        log.info(
            "prompt %d tokens (%d cached) at %.0f/s, answer %d tokens at %.1f/s",
            *(used.prompt_tokens, used.cached_tokens, used.prompt_rate),
            *(used.completion_tokens, used.decode_rate),
        )
