"""The models of one server: found by name, loaded when wanted, unloaded for room or when idle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from portable.engine.machine import available_memory
from portable.errors import ContextLengthExceeded, EngineError, PortableError
from portable.server import room
from portable.server.names import Names
from portable.server.served import Served
from portable.server.sleep import Sleep
from portable.server.stream import MakeCommand, Stream

log = logging.getLogger("portable")

_TICK = 0.2
_REAP_SECONDS = 1.0


class Fleet:
    """Loads one model at a time, so that each sees the memory that the others left.

    The first model is the default, and loaded at the start. `free` tells the bytes that are free,
    `sleep` when the machine slept: what was on a GPU is loaded again then.
    A model is unloaded when nobody has used it for its `keep_alive`, or when another one needs
    its room; never while it answers.
    """

    def __init__(
        self,
        models: Sequence[Served],
        *,
        any_model: bool = False,
        free: Callable[[], int] = available_memory,
        sleep: Sleep | None = None,
    ) -> None:
        self.models = tuple(models)
        self._names = Names([(m.config.names, m) for m in models], any_model=any_model)
        self._free = free
        self._sleep = sleep or Sleep()
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def default(self) -> Served:
        return self.models[0]

    def resolve(self, asked: str | None) -> Served:
        """The model that a request means. Raises ModelNotFound."""
        return self._names.resolve(asked)

    def start(self) -> None:
        """Begin to load the default model."""
        self.wake(self.default)
        self._begin(self._reap())

    async def stop(self) -> None:
        """End all processes; requests still running end with an error."""
        self._stopped = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(served.process.stop() for served in self.models))

    def fail_all(self, error: PortableError) -> None:
        for served in self.models:
            served.process.fail_all(error)

    def open(self, served: Served, id: str, command: MakeCommand) -> Stream:
        """Send a request, as soon as the model is loaded. Raises QueueFull."""
        self.wake(served)
        return served.process.open(id, command)

    def wake(self, served: Served) -> None:
        """Begin to load it, unless that was begun: whoever comes meanwhile shares the load."""
        served.used_at = time.monotonic()
        if served.load is None and not served.process.is_started and not self._stopped:
            served.process.gone.clear()  # what failed before may have been a passing want
            served.load = self._begin(self._load(served))

    async def load(self, served: Served) -> None:
        """Have it loaded. Raises why that is impossible."""
        process = served.process
        self.wake(served)
        while served.load:
            await asyncio.shield(served.load)
        await process.settled()
        if process.gone.is_set():
            raise process.failure or EngineError("the model cannot be loaded")

    async def unload(self, served: Served) -> None:
        """Have it unloaded, as soon as it has answered who was there before."""
        async with self._loading:
            await self._leave(served)

    async def widen(self, served: Served, context: int) -> None:
        """Have room for `context` tokens, by loading the model again if need be.

        Raises ContextLengthExceeded for more than the model was trained for, or than fits.
        """
        await self.load(served)
        async with self._loading:
            info, narrow = served.process.info, served.process.config
            if info is None or context <= info.context:
                return
            if context > info.trained_context:
                raise _too_wide(context, info.trained_context, "the model was trained for")
            await self._leave(served)
            served.process.config = replace(narrow, context=context)
            await self._fill(served, trial=True)
            if not served.is_loaded:
                served.process.config = narrow
                await self._fill(served)
                raise _too_wide(context, info.context, "there is memory for")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self, served: Served) -> None:
        try:
            async with self._loading:
                await self._fill(served)
        finally:
            served.load = None

    async def _fill(self, served: Served, *, trial: bool = False) -> None:
        """Load it, once others made room for it."""
        if served.process.is_started:
            return
        need = await asyncio.to_thread(room.need, served.process.config)
        while need > self._free() and (victim := self._first_to_leave()):
            log.info("%s makes room for %s", victim.id, served.id)
            await self._leave(victim)
        served.process.start(trial=trial)
        await served.process.settled()
        served.tell()

    def _first_to_leave(self) -> Served | None:
        return room.first_to_leave([m for m in self.models if m.process.is_started])

    async def _leave(self, served: Served) -> None:
        """Unload it. Those who come while it answers the last ones wait for the next load."""
        process = served.process
        process.held = True
        try:
            while process.is_busy:
                await asyncio.sleep(_TICK)
            await process.unload()
        finally:
            process.held = False
            process.send_waiting()
        if process.is_wanted:
            self.wake(served)

    async def _reap(self) -> None:
        """Unload who has been idle for long enough; load again who was on a GPU in its sleep."""
        while True:
            await asyncio.sleep(_REAP_SECONDS)
            now = time.monotonic()
            if slept := self._sleep.seconds():
                for served in filter(lambda each: each.is_on_gpu, self.models):
                    self._begin(self._renew(served, slept))
            for served in self.models:
                if served.process.is_busy or not served.process.ready.is_set():
                    served.used_at = now
                elif served.is_tired(now):
                    await self._retire(served)

    async def _renew(self, served: Served, slept: float) -> None:
        """Load it again, planned anew: CUDA often does not survive that the machine sleeps."""
        log.warning("the machine slept for %.0f s: loading %s again", slept, served.id)
        async with self._loading:
            served.process.slept = True
            await self._leave(served)
            await self._fill(served)

    async def _retire(self, served: Served) -> None:
        """Unload it, unless somebody has used it while another model was being loaded."""
        async with self._loading:
            if served.is_loaded and not served.is_busy and served.is_tired(time.monotonic()):
                log.info("%s is idle: unloading it", served.id)
                await self._leave(served)


def _too_wide(context: int, most: int, why: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"num_ctx: {context} tokens are more than the {most} that {why}", param="num_ctx"
    )
