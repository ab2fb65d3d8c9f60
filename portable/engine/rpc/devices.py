"""Registers workers with ggml, in the engine's process only, and keeps their connections."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from portable.engine.config import EngineConfig
from portable.engine.native import libggml
from portable.engine.rpc import hello
from portable.engine.rpc.alive import keep_asking
from portable.engine.rpc.endpoint import parts
from portable.engine.rpc.lost import GUARD
from portable.errors import Busy, EngineError, NetworkError, NotEnoughMemory, PortableError

# Seconds for a worker that is just starting its server again.
_PATIENCE = 2.0
# ggml closes a connection that nothing uses and aborts if the next one fails: one backend a worker
# holds it for this process's life, so that no other client comes between.
_HELD: dict[str, int] = {}


def connect(endpoints: Sequence[str]) -> tuple[PortableError, ...]:
    """Make devices of those workers that can be reached; returns why the others cannot.

    Raises EngineError when llama.cpp is built without RPC.
    """
    missing: list[PortableError] = []
    for endpoint in endpoints:
        if endpoint in _HELD:
            continue
        try:
            hello.ask(endpoint, patience=_PATIENCE)
            _in_time(partial(_register, endpoint), endpoint)
        except EngineError:
            raise
        except PortableError as error:
            missing.append(error)
    if _HELD:
        GUARD.install(_HELD)
        keep_asking({parts(endpoint)[1] for endpoint in _HELD})
    return tuple(missing)


def without_some(config: EngineConfig) -> EngineConfig:
    """What is asked, where a worker is missing: shares and numbers of devices mean others then."""
    names = tuple(name for name in config.devices or () if not name.lower().startswith("rpc"))
    return replace(config, tensor_split=(), main_gpu=None, devices=names or None)


@contextlib.contextmanager
def blamed(missing: Sequence[PortableError]) -> Iterator[None]:
    """If what is left is too small, the workers that are missing are the reason to name."""
    try:
        yield
    except NotEnoughMemory as error:
        if not missing:
            raise
        why = "; ".join(each.message for each in missing)
        raise NetworkError(f"{why}; without it {error.message}", hint=missing[0].hint) from None


def _register(endpoint: str) -> None:
    add = rpc_function("ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
    reg = ctypes.c_void_p(add(endpoint.encode()))
    libggml.ggml_backend_register(reg)
    libggml.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_init.restype = ctypes.c_void_p
    device = ctypes.c_void_p(libggml.ggml_backend_reg_dev_get(reg, ctypes.c_size_t(0)))
    _HELD[endpoint] = libggml.ggml_backend_dev_init(device, None)


def rpc_function(name: str, result: Any, *arguments: Any) -> Callable[..., int]:
    """One of the functions that the RPC backend has beyond ggml's interface. Raises EngineError."""
    libggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    libggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    reg = ctypes.c_void_p(libggml.ggml_backend_reg_by_name(b"RPC"))
    found = reg and libggml.ggml_backend_reg_get_proc_address(reg, name.encode())
    if not found:
        raise EngineError(
            "llama.cpp is built without RPC", hint='install it with CMAKE_ARGS="-DGGML_RPC=ON"'
        )
    made: Callable[..., int] = ctypes.CFUNCTYPE(result, *arguments)(found)
    return made


def _in_time(work: Callable[[], None], endpoint: str) -> None:
    """ggml waits for ever where another client was quicker; this does not."""
    failed: list[PortableError] = []

    def run() -> None:
        try:
            work()
        except PortableError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="rpc", daemon=True)
    thread.start()
    thread.join(2 * hello.SECONDS)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise Busy(f"the worker {endpoint} was taken by another client just now")
