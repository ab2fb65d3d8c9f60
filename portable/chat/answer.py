"""One answer from a loaded model, until it ends or Ctrl-C stops it; knows no terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from portable.chat.ask import Answer, Show
from portable.chat.interrupt import on_interrupt
from portable.engine.places import slow
from portable.engine.sequence import Delta, SamplingParams
from portable.engine.service import Service
from portable.engine.template import Message
from portable.engine.worker import Streams
from portable.errors import ContextLengthExceeded, EngineError, OutOfMemory


class Answerer:
    """Implements `Ask` on a Service that delivers to `streams`. `options` are the template's."""

    def __init__(
        self, service: Service, streams: Streams, params: SamplingParams, options: dict[str, Any]
    ) -> None:
        self._service = service
        self._streams = streams
        self._params = params
        self._options = options
        self._ids = (f"chat-{n}" for n in itertools.count())
        self._id = ""
        self._stopped = False

    def __call__(self, messages: list[Message], show: Show, *, spare: float = 0.0) -> Answer:
        self._id, self._stopped = next(self._ids), False
        self._streams.open(self._id)
        with on_interrupt(self._stop):
            tokens = self._submit(messages)
            if self._stopped:  # before the worker knew of it
                self._stop()
            if tokens > self._context * (1 - spare):
                self._withdraw(tokens)
            return self._collect(show)

    def facts(self) -> Iterator[str]:
        """What runs where, how fast, and what is wrong with that."""
        service, info = self._service, self._service.info
        yield info.placement
        for place in info.places:
            if place.layers or place.bytes:
                yield place.detail()
        doubt = None
        if seconds := service.worker.token_seconds:
            yield f"one answer alone gets {1 / seconds:.1f} tokens/s, timed after loading"
            doubt = slow(info.places, seconds)
        yield from map(str, [*service.findings, *([doubt] if doubt else [])])

    def _submit(self, messages: list[Message]) -> int:
        try:
            return self._service.chat(self._id, messages, self._options, self._params)
        except BaseException:  # nothing will ever come
            self._streams.close(self._id)
            raise

    @property
    def _context(self) -> int:
        return self._service.info.context

    def _stop(self) -> None:
        self._stopped = True
        self._service.worker.cancel(self._id)

    def _withdraw(self, tokens: int) -> None:
        self._service.worker.cancel(self._id)
        for _ in self._streams.read(self._id):
            pass
        raise ContextLengthExceeded(
            f"the prompt has {tokens} tokens, the context holds {self._context}"
            " and the answer needs room"
        )

    def _collect(self, show: Show) -> Answer:
        pieces: list[str] = []
        for delta in self._streams.read(self._id):
            if delta.error and delta.error[0] == OutOfMemory.code and self._takes_less():
                raise OutOfMemory(delta.error[1], hint="start again: it takes less then")
            if delta.error:
                raise EngineError(delta.error[1])
            if text := _shown(delta):
                pieces.append(text)
                show(text)
        return Answer(
            "".join(pieces),
            stopped=delta.finish_reason == "cancelled",
            cut=self._limit(delta) if delta.finish_reason == "length" else "",
            usage=delta.usage,
            context=self._context,
            threads=self._service.threads.told,
        )

    def _takes_less(self) -> bool:
        """Whether the next start takes less memory than this one."""
        return self._service.weights.fallback.learned()

    def _limit(self, last: Delta) -> str:
        limit = self._params.max_tokens
        if limit is not None and last.usage and last.usage.completion_tokens >= limit:
            return f"the limit of {limit} tokens was reached"
        return f"the context of {self._context} tokens is full"


def _shown(delta: Delta) -> str:
    """A cancelled answer may end in half a character, which is flushed as U+FFFD."""
    if delta.finish_reason == "cancelled":
        return delta.text.rstrip("\ufffd")
    return delta.text
