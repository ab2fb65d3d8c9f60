"""One model in a child process: started, watched, restarted, asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable

import msgspec

from portable.engine import isolated, libllama, protocol
from portable.engine.backend import ModelInfo
from portable.engine.config import EngineConfig
from portable.engine.findings import Finding
from portable.engine.sequence import Delta
from portable.errors import EngineError, NetworkError, OutOfMemory, PortableError, QueueFull
from portable.platforms import own_group
from portable.server import told
from portable.server.stream import TRIES, MakeCommand, Stream, next_ones

log = logging.getLogger("portable")

_STUCK_SECONDS = 600.0
_TURNS = 10
_MAX_FAILED = 3
_WINDOW = 60.0


class ModelProcess:
    """Runs one EngineConfig in a child, and again when that dies.

    It gives up, and sets `gone`, only when the model cannot be loaded; `failure` says why. A child
    that dies at work is started again, after a growing pause when that happens often: a request
    that kills it slows the server down and does not end it. A child
    that says nothing for `silent_seconds` counts as dead. `running` is how many requests the child
    itself holds, as of its last sign of life, `beat`. While it is `held`, new requests wait.
    `slept`: the next start is after the machine slept.
    """

    def __init__(self, config: EngineConfig, silent_seconds: float = 30.0) -> None:
        self.config = config
        self._silent_seconds = silent_seconds
        self.info: ModelInfo | None = None
        self.offload_reason = ""
        self.template = ""
        self.findings: list[Finding] = []
        self.progress = 0.0
        self.failure: PortableError | None = None
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.restarts = 0
        self.running = 0
        self.held = self.slept = False
        self.beat: protocol.Beat | None = None
        self._streams: dict[str, Stream] = {}
        self._unsent: dict[str, Stream] = {}
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: deque[float] = deque(maxlen=16)
        self._code, self._killed = 0, False  # which the last child ended with, by us
        self._silent = 0
        self._lived = self._trial = False
        self._steps = 0
        self._step_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def token_seconds(self) -> float:
        """What a token alone took, as timed after loading; 0 until that is known."""
        return self.beat.token_seconds if self.beat else 0.0

    @property
    def is_started(self) -> bool:
        """Loaded, or about to be."""
        return self._task is not None and not self._task.done()

    @property
    def is_busy(self) -> bool:
        """The child has requests to answer."""
        return len(self._streams) > len(self._unsent)

    @property
    def waiting(self) -> int:
        """Requests beyond those that decode together."""
        return max(0, len(self._streams) - self.config.slots)

    @property
    def is_wanted(self) -> bool:
        """Requests wait for the child."""
        return bool(self._unsent)

    def start(self, *, trial: bool = False) -> None:
        """Load the model, in place of what may have failed before.

        A `trial` that fails sets no more than `failure`: who waits, waits for the next start.
        """
        self.failure, self.progress, self._trial = None, 0.0, trial
        self.gone.clear()
        self._task = asyncio.get_running_loop().create_task(self._supervise())

    async def settled(self) -> None:
        """The model is loaded, cannot be, or nobody is about to load it."""
        if self._task is None:
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (self.ready, self.gone)]
        try:
            await asyncio.wait([*waits, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def unload(self) -> None:
        """End the child, so that its memory is free; requests wait for the next start."""
        self.ready.clear()
        task, self._task = self._task, None
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._end_child()

    async def stop(self) -> None:
        """End the child; requests still running end with an error."""
        await self.unload()
        self.fail_all(EngineError("the server is shutting down"))

    def open(self, id: str, command: MakeCommand) -> Stream:
        """Send a request, as soon as the model is loaded: `command` is called then.

        `Stream.accepted` tells how it went. Raises QueueFull.
        """
        if len(self._streams) >= self.config.slots + self.config.queue:
            raise QueueFull(
                f"{len(self._streams)} requests are running or waiting",
                hint="try again in a moment",
                seconds=self._seconds_a_request(),
            )
        stream = self._streams[id] = Stream(id, command)
        if self.gone.is_set():
            stream.fail(self.failure or EngineError("the model cannot be loaded"))
        else:
            self._unsent[id] = stream
        self.send_waiting()
        return stream

    def ahead(self, stream: Stream) -> tuple[int, float]:
        """Requests that came before this one and wait as well, and the seconds that they take."""
        count = 0
        for other in self._streams.values():
            if other is stream:
                break
            count += not other.begun
        return count, (count + 1) * self._seconds_a_request()

    def _seconds_a_request(self) -> float:
        """How often a place becomes free, by the last answers."""
        if len(self._ended) < 2:
            return QueueFull.seconds
        span = time.monotonic() - self._ended[0]
        return min(60.0, max(1.0, span / len(self._ended)))

    def close(self, stream: Stream) -> None:
        """The client has its answer, or left: forget the request and free its cells."""
        unsent = self._unsent.pop(stream.id, None)
        if self._streams.pop(stream.id, None) and self.ready.is_set() and not unsent:
            self._send(protocol.Cancel(stream.id))
        self.send_waiting()

    def fail_all(self, error: PortableError) -> None:
        """Every request ends with this error."""
        self._unsent = {}
        self._fail_sent(error)

    def send_waiting(self) -> None:
        """Send what waits for the child and may go to it now, if it is there and not held."""
        if self.held or not self._unsent or not self.ready.is_set():
            return
        for stream in next_ones(self._streams, self._unsent):
            del self._unsent[stream.id]
            stream.tries += 1
            try:
                self._send(stream.command())
            except PortableError as error:  # what the model makes of the request refuses it
                stream.fail(error)
            except Exception as error:  # a defect of ours must not end whoever called
                log.exception("a request could not be sent")
                stream.fail(EngineError(f"{type(error).__name__}: {error}"))

    def _send(self, command: protocol.Command) -> None:
        if self._child and self._child.stdin and not self._child.stdin.is_closing():
            self._child.stdin.write(protocol.frame(command))

    async def _supervise(self) -> None:
        deaths: deque[float] = deque(maxlen=8)
        failed_starts = 0
        while True:
            self.failure, self._lived = None, False
            try:
                await self._run_child()
            except Exception:  # no process to be had, or one that talks nonsense
                log.exception("the model's process failed")
            if not self._lived and not self.failure:
                self.failure = await asyncio.to_thread(libllama.trouble, self._code)
            goes_on = self._lived or self._lacks_worker or self._takes_less
            failed_starts = 0 if goes_on else failed_starts + 1
            # What cannot be loaded the first time is told at once; later it may be a passing want.
            at_once = self.failure and not self.info
            if failed_starts == _MAX_FAILED or (failed_starts and (at_once or self._trial)):
                self._give_up(self.failure or told.unloadable(self._code, failed_starts))
                return
            self._keep_untouched()
            if self._lacks_worker:
                self._unsent = {}
            died = self.failure or told.died(self._code, by_us=self._killed)
            self._fail_sent(died)
            self.restarts += 1
            deaths.append(time.monotonic())
            log.warning("%s; starting the model's process again", died.message)
            await asyncio.sleep(pause(deaths))

    @property
    def _takes_less(self) -> bool:
        """Memory ran out, and the next process takes less: some day there is no less to take."""
        return self._code == OutOfMemory.exit_code and self.failure is None

    @property
    def _lacks_worker(self) -> bool:
        """It ran, and does not start without a machine that is not there: that one may come back.

        Until then who waits is told so, for that may take long.
        """
        return not self._lived and bool(self.info) and isinstance(self.failure, NetworkError)

    def _give_up(self, error: PortableError) -> None:
        self.failure = error
        if self._trial:
            return
        self.gone.set()
        self.fail_all(error)

    async def _run_child(self) -> None:
        """One life of the child, to its end."""
        config = msgspec.json.encode(self.config, enc_hook=str).decode()
        self._child = await asyncio.create_subprocess_exec(
            *isolated.command("portable.engine.child", config),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            **own_group(),  # Ctrl-C is for this process, which lets answers end
        )
        try:
            await self._read_events(self._child)
        finally:
            # From here on requests wait for the next child.
            self._lived = self.ready.is_set()
            self.ready.clear()
            self.running = 0
            await self._end_child()

    async def _read_events(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout
        self._silent = 0
        watch = asyncio.create_task(self._watch(child))
        try:
            while True:
                header = await child.stdout.readexactly(protocol.HEADER.size)
                body = await child.stdout.readexactly(*protocol.HEADER.unpack(header))
                self._silent = 0
                if not self._handle(protocol.decode_event(body)):
                    return
        except asyncio.IncompleteReadError:
            return
        finally:
            watch.cancel()

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        """Kill a child that has nothing to say, so that reading from it ends."""
        # Counted in short turns of this loop: while this process itself is stopped, by Ctrl-Z or a
        # laptop's lid, no time passes for it.
        while self._silent < _TURNS:
            await asyncio.sleep(self._silent_seconds / _TURNS)
            # Before it is ready the child may read a large file for a long time without a word.
            self._silent += self.ready.is_set()
        log.error("the model's process does not answer; ending it")
        child.kill()

    def _handle(self, event: protocol.Event) -> bool:
        """Pass an event on; False when the child has to be ended."""
        match event:
            case protocol.Deltas():
                for delta in event.deltas:
                    self._deliver(delta)
                self.send_waiting()
            case protocol.Accepted() | protocol.Failed():
                self._decide(event)
            case protocol.Result():
                self._answer(event)
                self.send_waiting()
            case protocol.Loading():
                self.progress = event.fraction
            case protocol.Ready():
                self.findings = told.started(event, self.info, slept=self.slept)
                self.info, self.offload_reason = event.info, event.offload_reason
                self.template, self.beat, self.slept = event.template, None, False
                if self.restarts:
                    where = event.info.placement
                    log.info("the model runs again: %s; %s", where, event.offload_reason)
                self._step_at = time.monotonic()
                self._trial = False
                self.ready.set()
                self.send_waiting()
            case protocol.Beat():
                self.running = event.unfinished
                if self.info and event.token_seconds and not self.token_seconds:
                    self.findings += told.timed(self.info, event.token_seconds)
                self.beat = event
                return not self._is_stuck(event.steps, event.unfinished)
        return True

    def _decide(self, event: protocol.Accepted | protocol.Failed) -> None:
        """A request was taken or refused; without an id it is the loading that failed."""
        stream = self._streams.get(event.id)
        if isinstance(event, protocol.Accepted):
            if stream and not stream.accepted.done():
                stream.accepted.set_result(event.prompt_tokens)
        elif not event.id:
            self.failure = protocol.as_error(event)
        elif stream:
            stream.fail(protocol.as_error(event))

    def _answer(self, event: protocol.Result) -> None:
        stream = self._streams.pop(event.id, None)
        if stream and not stream.accepted.done():
            self._ended.append(time.monotonic())
            stream.accepted.set_result(event.answer)

    def _is_stuck(self, steps: int, unfinished: int) -> bool:
        now = time.monotonic()
        if steps != self._steps or not unfinished:
            self._steps, self._step_at = steps, now
        if now - self._step_at > _STUCK_SECONDS:
            log.error("one step has taken %.0f seconds; ending the process", _STUCK_SECONDS)
            return True
        return False

    def _deliver(self, delta: Delta) -> None:
        if stream := self._streams.get(delta.id):
            stream.put(delta)
            if delta.finish_reason:
                self._ended.append(time.monotonic())
                del self._streams[delta.id]

    def _keep_untouched(self) -> None:
        """Requests that got no text of the dead process wait for the next one, once."""
        for id, stream in self._streams.items():
            if self._takes_less:  # that may take several steps, and was no request's fault
                stream.tries = 0
            if stream.tries < TRIES and not stream.told:
                self._unsent[id] = stream

    def _fail_sent(self, error: PortableError) -> None:
        sent = [id for id in self._streams if id not in self._unsent]
        for id in sent:
            self._streams.pop(id).fail(error)

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        self._killed = self._silent >= _TURNS
        if child.stdin:
            child.stdin.close()  # the child leaves when its input ends
        try:
            async with asyncio.timeout(2):
                await child.wait()
        except TimeoutError:
            self._killed = True
            child.kill()
            await child.wait()
        self._code = child.returncode or 0


def pause(deaths: Iterable[float]) -> float:
    """Seconds until the next start: none after one death in a minute, then more and more."""
    now = time.monotonic()
    recent = sum(now - death < _WINDOW for death in deaths)
    return 0.0 if recent < 2 else min(2.0 ** (recent - 2), 30.0)
