"""What a model's process says of one request, as an async stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from portable.engine import protocol
from portable.engine.sequence import Delta, Progress
from portable.errors import PortableError

MakeCommand = Callable[[], protocol.Generate | protocol.Query]
TRIES = 2  # processes that one request may be in when they die


class Stream:
    """One request's deltas. `accepted` resolves to the prompt's number of tokens, or raises.

    A query has no deltas, and `accepted` is its answer.
    """

    def __init__(self, id: str, command: MakeCommand) -> None:
        self.id = id
        self.command = command
        self.tries = 0
        self.accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._deltas: asyncio.Queue[Delta] = asyncio.Queue()
        self.begun = self.told = False  # the prompt is being read; there is text
        self.progress: Progress | None = None

    def put(self, delta: Delta) -> None:
        self.begun, self.progress = True, delta.progress
        self.told = self.told or bool(delta.text or delta.logprobs)
        self._deltas.put_nowait(delta)

    def fail(self, error: PortableError) -> None:
        """The request ends with this error, before or after it was accepted."""
        if not self.accepted.done():
            self.accepted.set_exception(error)
            self.accepted.exception()  # nobody may be waiting for it any more
        code = error.code or "error"
        self.put(Delta(self.id, "", "error", None, (code, str(error))))

    async def next(self) -> Delta:
        """The next delta; one with a finish_reason is the last. Cancelling this loses nothing."""
        return await self._deltas.get()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Deltas up to the one with a finish_reason."""
        while True:
            delta = await self.next()
            yield delta
            if delta.finish_reason:
                return


def next_ones(streams: Mapping[str, Stream], unsent: Mapping[str, Stream]) -> list[Stream]:
    """Those of the `unsent` that may be sent now.

    One that was in a process when it died may have killed it. Such are sent one after the other,
    each when the one before has text or its end: what kills the next process, too, then takes no
    other one of them with it.
    """
    suspects = [stream for stream in unsent.values() if stream.tries]
    tried = any(s.tries == TRIES and not s.told for s in streams.values() if s.id not in unsent)
    later = suspects if tried else suspects[1:]
    return [stream for stream in unsent.values() if stream not in later]
