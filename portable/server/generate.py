"""One request's way through the server: sent to its model, read as one answer or as a stream.

From `accepted` on the status line may be sent; a client that leaves takes its request with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from portable.dialects.said import Reader, joined
from portable.engine.sequence import Delta, Progress, TokenLogprob, Usage
from portable.errors import Busy, EngineError, InvalidRequest, PortableError
from portable.server import sse
from portable.server.layout import NO_USAGE, Answer, Layout, Piece, Waiting
from portable.server.observe import record_of
from portable.server.replies import JSON, ClientLeft, shown
from portable.server.served import Served
from portable.server.state import State
from portable.server.stream import Stream
from portable.server.wanted import Wanted

T = TypeVar("T")
log = logging.getLogger("portable")


class Loading(Busy):
    """The model is not ready and the operator asked not to wait."""

    code = "model_loading"


async def respond(request: Request, wanted: Wanted, lay_out: Callable[[str], Layout]) -> Response:
    """A whole answer, or with `stream` its events as they come; `lay_out` gets the model's id."""
    state: State = request.app.state.portable
    served = state.fleet.resolve(wanted.model)
    if state.config.log_prompts:
        log.info("%s asks %s", record_of(request).id, wanted.prompts)
    exchange = Exchange(request, state, served, wanted, lay_out(served.id))
    if wanted.keep_alive != "":
        served.keep_alive = wanted.keep_alive
    if wanted.context:
        await state.fleet.widen(served, wanted.context)
    try:
        return await (exchange.stream() if wanted.stream else exchange.whole())
    except InvalidRequest as error:  # the engine knows prompts only as messages
        error.param = wanted.param if error.param == "messages" else error.param
        raise


def check_loaded(state: State, served: Served) -> None:
    """Raises Loading, and begins to load, if nobody shall wait for a model that is not ready."""
    if state.config.fail_while_loading and not served.is_loaded:
        state.fleet.wake(served)
        raise Loading("the model is loading", hint="try again in a few seconds")


class Exchange:
    """One request, its model, and the layout of the reply."""

    def __init__(
        self, request: Request, state: State, served: Served, wanted: Wanted, layout: Layout
    ) -> None:
        if wanted.answers > (slots := served.process.config.slots):
            raise InvalidRequest(f"n: at most {slots} answers at once", param="n")
        self._request = request
        self._state = state
        self._config = state.config
        self._fleet = state.fleet
        self._served = served
        self._wanted = wanted
        self._layout = layout
        self._prompt_tokens: int | None = None
        self._record = record_of(request)
        self._record.model = served.id

    async def whole(self) -> Response:
        """Whole answers, decoded together; the first error stops the others and is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(at)) for at in range(self._wanted.answers)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        body = self._layout.body([task.result() for task in tasks])
        return JSON(body, headers=self._headers())

    async def stream(self) -> Response:
        """Events; an error before all answers are accepted is raised, and none of them runs."""
        streams: list[Stream] = []

        def close() -> None:
            for stream in streams:
                self._served.process.close(stream)

        try:
            streams += [self._open(at) for at in range(self._wanted.answers)]
            for at, stream in enumerate(streams):
                await self._accepted(at, stream, patient=False)
        except BaseException:
            close()
            raise
        return sse.EventStream(self._events(streams), self._headers(), close)

    def _open(self, at: int) -> Stream:
        """Send the request. Raises QueueFull, or Loading if nobody shall wait for the model."""
        served, id = self._served, self._layout.id
        id = f"{id}-{at}" if at else id
        check_loaded(self._state, served)
        return self._fleet.open(served, id, lambda: served.command(self._wanted, id, at))

    async def _accepted(self, at: int, stream: Stream, *, patient: bool) -> None:
        """Wait until the model has taken it; raises what it refuses with.

        Who is impatient waits `status_after_seconds`, while the model is still loading or a very
        long prompt is read: then the stream begins, and an error comes as an event.
        """
        limit = None if patient else self._config.status_after_seconds
        wait = unless_left(self._request, asyncio.shield(stream.accepted))
        try:
            tokens = await asyncio.wait_for(wait, limit)
        except TimeoutError:
            return
        if at == 0:
            self._prompt_tokens = tokens

    async def _answer(self, at: int) -> Answer:
        """All of it. Raises EngineError, or ClientLeft."""
        stream = self._open(at)
        try:
            await self._accepted(at, stream, patient=True)
            return await unless_left(self._request, self._collect(at, stream))
        finally:
            self._served.process.close(stream)

    async def _collect(self, at: int, stream: Stream) -> Answer:
        reader = self._served.reader(self._wanted)
        parts, logprobs = [], list[TokenLogprob]()
        async for delta in stream:
            if delta.error:
                raise _as_error(delta)
            for piece in self._pieces(at, delta, reader):
                parts.append(piece.said)
                logprobs += piece.logprobs
                if piece.finish_reason:
                    said, reason = joined(parts), piece.finish_reason
                    return Answer(said, reason, piece.usage, logprobs, piece.stop)
        raise EngineError("the answer ended without a reason")

    async def _events(self, streams: list[Stream]) -> AsyncIterator[bytes]:
        layout = self._layout
        readers: dict[int, Reader] = {}
        spent: dict[int, Usage] = {}
        now = asyncio.get_running_loop().time
        told = now()
        yield b"".join(layout.begin(len(streams), self._prompt_tokens))
        seconds, progress = self._config.keep_alive_seconds, self._wanted.progress
        async for index, delta in sse.with_keep_alive(streams, seconds, progress):
            if delta is None or delta.progress:
                read = delta.progress if delta else streams[index].progress
                told = now()
                yield b"".join(layout.silence(index, self._waiting(streams[index], read)))
            elif delta.error:
                code, message = delta.error
                yield b"".join(layout.failure(code, shown(message)))
                return
            else:
                if index not in readers:
                    readers[index] = self._served.reader(self._wanted)
                pieces = self._pieces(index, delta, readers[index])
                sent = b"".join(part for piece in pieces for part in layout.piece(piece))
                if not sent and now() - told >= seconds:  # a long call that is not told yet
                    sent = b"".join(layout.silence(index, Waiting("answering")))
                if sent:
                    told = now()
                    yield sent
                if delta.finish_reason:
                    spent[index] = delta.usage or NO_USAGE
        yield b"".join(layout.end([spent[at] for at in sorted(spent)]))

    def _waiting(self, stream: Stream, read: Progress | None) -> Waiting:
        process = self._served.process
        if not process.ready.is_set():
            return Waiting("loading", fraction=process.progress)
        if not stream.begun:
            position, seconds = process.ahead(stream)
            return Waiting("queued", position=position, seconds=seconds)
        if not read:
            return Waiting("answering")
        done, left = read.processed - read.cached, read.total - read.processed
        rest = read.seconds * left / done if done > 0 else None
        return Waiting("reading", progress=read, seconds=rest)

    def _pieces(self, index: int, delta: Delta, reader: Reader) -> Iterator[Piece]:
        """What one delta says; the last text comes before the reason, as all clients expect."""
        if delta.text:
            self._record.token(index)
            if (said := reader.push(delta.text)) or delta.logprobs:
                yield Piece(index, said, logprobs=delta.logprobs)
        if delta.finish_reason:
            if said := reader.finish():
                yield Piece(index, said)
            used = delta.usage or NO_USAGE
            self._record.finish(used)
            yield Piece(
                index, finish_reason=delta.finish_reason, usage=used, stop=self._told(delta.stop)
            )

    def _told(self, stop: str) -> str:
        """The stop sequence, if it is one of the request's: dialects have theirs."""
        return stop if stop in self._wanted.said.get("stop", ()) else ""

    def _headers(self) -> dict[str, str]:
        return self._served.clamped(self._wanted.said, self._prompt_tokens)


def _as_error(delta: Delta) -> PortableError:
    code, message = delta.error or ("backend_error", "")
    error = EngineError(message)
    error.code = code
    return error


async def unless_left(request: Request, work: Awaitable[T]) -> T:
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
