"""ggml's RPC server in a process of its own: ends with its parent, tells who comes and goes.

It serves one client at a time; others wait in the system's queue. Bytes that are no request of
ggml's may abort it: the parent starts it again.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from typing import Any, TextIO

import msgspec
import psutil

from portable.engine import protocol
from portable.engine.machine import available_memory
from portable.engine.native import libggml, start
from portable.engine.rpc.alive import keep_asking
from portable.engine.rpc.devices import rpc_function
from portable.errors import EngineError, PortableError, UsageError

_CPU, _GPUS = 0, (1, 2)  # enum ggml_backend_dev_type
_LOOK_SECONDS = 0.5
_SIZE_POINTER = ctypes.POINTER(ctypes.c_size_t)
_GET_MEMORY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _SIZE_POINTER, _SIZE_POINTER)
# Beyond the memory that is lent: the tensor that is just being received.
_MESSAGE = 512 << 20


class Serving(msgspec.Struct):
    """`memory` in bytes is the most of this machine's that is lent; 0: what is free.

    `devices` are ggml's names; none are all GPUs and the CPU. `cache` is a folder for weights.
    """

    host: str
    port: int
    threads: int
    memory: int = 0
    devices: list[str] = []
    cache: str | None = None


class Device(msgspec.Struct):
    name: str
    description: str
    free: int


class Offering(msgspec.Struct, tag=True):
    """The server is about to listen; these are its devices."""

    devices: list[Device]


class Listening(msgspec.Struct, tag=True):
    """Clients may come."""


class Came(msgspec.Struct, tag=True):
    client: str


class Went(msgspec.Struct, tag=True):
    client: str


# Failed: it cannot serve, and starting it again would not help.
News = Offering | Listening | Came | Went | protocol.Failed


class Memory:
    """What the host's device says of its memory, in place of ggml: that takes all for free."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._asked = 0
        self._before = psutil.Process().memory_info().rss
        self._told = _GET_MEMORY(self._tell)  # ggml keeps the pointer

    def install(self, device: ctypes.c_void_p) -> None:
        """Put ours in the place of the device's third function. Raises EngineError."""
        functions = ctypes.cast(device, ctypes.POINTER(ctypes.c_void_p))
        functions[2] = ctypes.cast(self._told, ctypes.c_void_p).value
        _free(device)
        if not self._asked:
            raise EngineError("this llama.cpp cannot be told how much memory to lend")

    def limit(self) -> None:
        """Let what is beyond fail: ggml's client is told so. On Linux only."""
        if self._most and sys.platform == "linux":
            import resource  # noqa: PLC0415  not there on Windows

            used = psutil.Process().memory_full_info().data
            most = used + self._most + _MESSAGE
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))

    def _tell(self, _device: int, free: Any, total: Any) -> None:
        self._asked += 1
        whole, left = psutil.virtual_memory().total, available_memory()
        if self._most:
            lent = max(0, psutil.Process().memory_info().rss - self._before)
            whole, left = min(whole, self._most), min(left, max(0, self._most - lent))
        free[0], total[0] = left, whole


def main() -> int:
    """`python -m portable.engine.rpc.serve SERVING`: news as lines of JSON on stdout."""
    serving = msgspec.json.decode(sys.argv[1], type=Serving)
    # What ggml prints must not land among the news.
    news = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _serve(serving, news)
    except PortableError as error:
        _tell(news, protocol.failed("", error))
    return 1


def _serve(serving: Serving, news: TextIO) -> None:
    """Returns only when ggml cannot listen."""
    start()
    run = rpc_function(
        "ggml_backend_rpc_start_server",
        *(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t),
        ctypes.POINTER(ctypes.c_void_p),
    )
    devices = _choose(serving.devices)
    memory = Memory(serving.memory)
    for device in devices:
        if libggml.ggml_backend_dev_type(device) == _CPU:
            memory.install(device)
    memory.limit()
    _tell(news, Offering([_described(device) for device in devices]))
    threading.Thread(target=_watch, args=(serving.port, news), daemon=True).start()
    handles = (ctypes.c_void_p * len(devices))(*devices)
    cache = serving.cache.encode() if serving.cache else None
    run(f"{serving.host}:{serving.port}".encode(), cache, serving.threads, len(devices), handles)


def _choose(names: list[str]) -> list[ctypes.c_void_p]:
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    found = [
        ctypes.c_void_p(libggml.ggml_backend_dev_get(ctypes.c_size_t(i)))
        for i in range(libggml.ggml_backend_dev_count())
    ]
    known = {_text("name", device): device for device in found}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--device {unknown[0]!r} is not here", hint=", ".join(known))
    if names:
        return [known[name] for name in names]
    kinds = [libggml.ggml_backend_dev_type(device) for device in found]
    return [d for wanted in (_GPUS, (_CPU,)) for d, kind in zip(found, kinds) if kind in wanted]


def _described(device: ctypes.c_void_p) -> Device:
    return Device(_text("name", device), _text("description", device), _free(device))


def _free(device: ctypes.c_void_p) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return free.value


def _text(what: str, device: ctypes.c_void_p) -> str:
    ask = getattr(libggml, f"ggml_backend_dev_{what}")
    ask.restype = ctypes.c_char_p
    text: bytes = ask(device)
    return text.decode("utf-8", "replace")


# --- beside the server ---


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def _watch(port: int, news: TextIO) -> None:
    """Tell when it listens, and who comes and goes."""
    listening, clients = False, set[str]()
    while True:
        own = [c for c in psutil.Process().net_connections("tcp4") if c.laddr.port == port]
        if not listening and any(c.status == psutil.CONN_LISTEN for c in own):
            listening = True
            _tell(news, Listening())
        here = {f"{c.raddr.ip}:{c.raddr.port}" for c in own if c.raddr}
        for client in clients - here:
            _tell(news, Went(client))
        for client in here - clients:
            _tell(news, Came(client))
        if here - clients:
            keep_asking({port})
        clients = here
        time.sleep(_LOOK_SECONDS if listening else _LOOK_SECONDS / 10)


def _tell(news: TextIO, what: News) -> None:
    news.write(msgspec.json.encode(what).decode() + "\n")
    news.flush()


if __name__ == "__main__":
    sys.exit(main())
