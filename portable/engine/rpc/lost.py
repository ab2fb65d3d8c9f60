"""A worker or a GPU is lost: ggml would abort. Before that this process says so, and ends in order.

There is nothing to go on with: ggml's calls wait for an answer that does not come, or never return.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import psutil

from portable.engine.findings import gpu_failed
from portable.engine.native import last_words, libggml
from portable.engine.rpc.endpoint import parts
from portable.engine.rpc.hello import address
from portable.errors import EngineError

Report = Callable[[EngineError], None]

_TURNS = 10
# Of ggml-rpc.cpp's own calls of GGML_ABORT.
_WORDS = ("Remote RPC server", "RPC handshake", "Failed to connect to")
_ABORTED = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


def _say(error: EngineError) -> None:
    print(f"portable: {error}", file=sys.stderr, flush=True)


class Pulse:
    """What a watch looks at: parts of the model while it loads, then steps, if any are wanted."""

    def __init__(self) -> None:
        self._parts = 0
        self._work: Callable[[], tuple[int, int]] | None = None

    def part(self) -> None:
        """Some more is loaded."""
        self._parts += 1

    def follow(self, work: Callable[[], tuple[int, int]]) -> None:
        """It is loaded; `work` tells steps so far, and requests that wait for more of them."""
        self._work = work

    def now(self) -> tuple[int, bool]:
        """A number that grows while something happens, and whether something should."""
        if self._work is None:
            return self._parts, True
        steps, waiting = self._work()
        return steps, waiting > 0


class Guard:
    """What this process does at ggml's abort. One a process, as ggml's callback is."""

    def __init__(self) -> None:
        self.report: Report = _say
        self.otherwise: Callable[[str], None] = lambda words: None  # hears of any other abort
        self.addresses: dict[str, tuple[str, int]] = {}  # of the workers in use
        self._aborted = _ABORTED(self._on_abort)  # ggml keeps the pointer

    def install(self, endpoints: Iterable[str]) -> None:
        """From now on the loss of one of these workers, or of a GPU, is told."""
        self.addresses = {each: (address(each), parts(each)[1]) for each in endpoints}
        libggml.ggml_set_abort_callback(self._aborted)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Tell ggml's words of any other abort, before the process ends by it."""
        self.otherwise = hear
        libggml.ggml_set_abort_callback(self._aborted)

    def watch(self, pulse: Pulse, seconds: float) -> None:
        """Take workers for lost if nothing happens for so long that should."""
        thread = threading.Thread(target=self._watch, args=(pulse, seconds), daemon=True)
        thread.start()

    def end(self, error: EngineError) -> NoReturn:
        try:
            self.report(error)
        finally:
            os._exit(EngineError.exit_code)

    def _on_abort(self, message: bytes) -> None:
        text = message.decode("utf-8", "replace")
        if self.addresses and any(words in text for words in _WORDS):
            self.end(lost(self._unconnected() or list(self.addresses), "went away"))
        self.otherwise(text)
        if finding := gpu_failed(last_words()) if "CUDA error" in text else None:
            self.end(EngineError(finding.what, hint=finding.mend))
        print(text, file=sys.stderr, flush=True)  # as ggml does; it aborts when this returns

    def _unconnected(self) -> list[str]:
        """Workers that closed their connection, or whose machine did."""
        open_ones = [
            tuple(each.raddr)
            for each in psutil.Process().net_connections("tcp4")
            if each.status == psutil.CONN_ESTABLISHED
        ]
        return [name for name, there in self.addresses.items() if there not in open_ones]

    def _watch(self, pulse: Pulse, seconds: float) -> None:
        last, silent = -1, 0
        # In short turns: while this machine sleeps, no time passes.
        while silent < _TURNS:
            time.sleep(seconds / _TURNS)
            now, expected = pulse.now()
            silent = silent + 1 if self.addresses and expected and now == last else 0
            last = now
        self.end(lost(list(self.addresses), f"did not answer for {seconds:g} seconds"))


GUARD = Guard()


def lost(endpoints: Sequence[str], how: str) -> EngineError:
    """The error that names who is to blame, or among whom."""
    names = ", ".join(endpoints)
    who = f"the worker {names}" if len(endpoints) == 1 else f"one of the workers {names}"
    return EngineError(f"{who} {how}", hint="see to it there, then ask again")
