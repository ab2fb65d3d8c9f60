"""Ctrl-C as a call instead of an exception, for the length of a `with` block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Whoever presses this often wants out, even if the work never ends.
_PATIENCE = 3


@contextmanager
def on_interrupt(call: Callable[[], None]) -> Iterator[None]:
    """`call` at each Ctrl-C, in the main thread; the third raises KeyboardInterrupt."""
    presses = 0

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses >= _PATIENCE:
            raise KeyboardInterrupt
        call()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
