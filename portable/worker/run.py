"""Keeps ggml's RPC server running in a child, and says what it offers and who uses it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from types import FrameType

import msgspec

from portable.engine import isolated, protocol
from portable.engine.cores import find_cores, settle
from portable.engine.offload.device import GIB
from portable.engine.rpc import serve
from portable.errors import PortableError
from portable.platforms import own_group
from portable.worker import port
from portable.worker.config import WorkerConfig

Say = Callable[[str], None]

_SHORT = 5.0  # seconds: a life that ends sooner makes the next pause longer
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_TURN = 0.1


def run(config: WorkerConfig, say: Say) -> int:
    """Serve until SIGTERM (exit code 0) or Ctrl-C (130).

    Raises PortInUse, UsageError or EngineError.
    """
    worker = Worker(config, port.choose(config, say), say)
    before = {n: signal.signal(n, worker.stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return worker.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Worker:
    """A child that is started again when it dies; a client's nonsense may do that to it."""

    def __init__(self, config: WorkerConfig, port: int, say: Say) -> None:
        self._config = config
        self._port = port
        self._say = say
        self._child: subprocess.Popen[str] | None = None
        self._signal = 0
        self._lives = 0
        self._failure: PortableError | None = None

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """A signal's handler: end the child and with it the worker."""
        self._signal = number
        if self._child:
            self._child.terminate()

    def run(self) -> int:
        pause = 0.0
        while not self._signal:
            began = time.monotonic()
            code = self._live()
            if self._failure:
                raise self._failure
            if self._signal:
                break
            lasted = time.monotonic() - began
            pause = 0.0 if lasted > _SHORT else min(_LONGEST_PAUSE, 2 * pause or _FIRST_PAUSE)
            self._say(f"ggml's server died ({code}): a client sent what it cannot take, or was cut")
            self._rest(pause)
        return 130 if self._signal == signal.SIGINT else 0

    def _rest(self, seconds: float) -> None:
        """Wait in short turns: a signal's handler does not end a sleep."""
        end = time.monotonic() + seconds
        while not self._signal and time.monotonic() < end:
            time.sleep(min(_TURN, seconds))

    def _live(self) -> int:
        """One life of the child; returns its exit code."""
        serving = msgspec.json.encode(self._serving()).decode()
        self._child = subprocess.Popen(
            isolated.command("portable.engine.rpc.serve", serving),
            stdin=subprocess.PIPE,  # its end is the sign that this process has gone
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            **own_group(),  # Ctrl-C is for this process
        )
        with self._child as child:
            if self._signal:  # it came while the child was made
                child.terminate()
            assert child.stdout
            for line in child.stdout:
                self._hear(msgspec.json.decode(line, type=serve.News))
        return child.returncode

    def _serving(self) -> serve.Serving:
        config = self._config
        threads, _ = settle(find_cores(), config.threads, eco=False)
        return serve.Serving(
            host=config.address,
            port=self._port,
            threads=threads,
            memory=config.memory,
            devices=list(config.devices),
            cache=str(config.cache) if config.cache else None,
        )

    def _hear(self, news: serve.News) -> None:
        match news:
            case serve.Offering():
                if not self._lives:
                    self._describe(news.devices)
            case serve.Listening():
                self._lives += 1
                self._tell_where()
            case serve.Came():
                self._say(f"client {news.client} connected; others wait until it leaves")
            case serve.Went():
                self._say(f"client {news.client} left")
            case protocol.Failed():
                self._failure = protocol.as_error(news)

    def _describe(self, devices: list[serve.Device]) -> None:
        threads = self._serving().threads
        for device in devices:
            lent = f"{device.free / GIB:.1f} GiB"
            self._say(f"lends {device.name} ({device.description}): {lent}, {threads} threads")
        if self._config.cache:
            self._say(f"keeps weights in {self._config.cache}")

    def _tell_where(self) -> None:
        if self._lives > 1:
            return self._say(f"listening again on {self._config.address}:{self._port}")
        self._say(f"listening on {self._config.address}:{self._port} (Ctrl-C ends it)")
        if self._config.is_loopback:
            here = f"127.0.0.1:{self._port}"
            self._say(f"from another machine: ssh -N -L {self._port}:{here} USER@THIS-MACHINE")
            self._say(f"and there: portable chat MODEL --rpc {here}")
        else:
            self._say(
                "WARNING: no key, no encryption: whoever reaches this port can use this machine"
            )
