"""The device under test: a GPU by its backend, or, where there is none, a worker on this machine.

PORTABLE_GPU_CHECK says which: `cuda` (the default), `vulkan`, `metal`, `rocm`, or `rpc`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from serving import model_file

from portable.engine import native
from portable.engine.build import REGISTERED
from portable.engine.config import EngineConfig
from portable.engine.offload.device import Device
from portable.engine.rpc.devices import connect

WANTED = os.environ.get("PORTABLE_GPU_CHECK", "cuda")
# A buffer of some backends holds no more.
_PIECE = 1 << 30
# Bytes that drivers round by.
_BLUR = 16 << 20


def model() -> Path:
    """PORTABLE_GPU_MODEL, else the small model from PyPI."""
    given = os.environ.get("PORTABLE_GPU_MODEL")
    return Path(given) if given else model_file()


@dataclass(frozen=True)
class Target:
    """One device; `rpc` are the endpoints of the worker that lends it."""

    name: str
    rpc: tuple[str, ...] = ()

    def config(self, **options: Any) -> EngineConfig:
        """On this device alone, unless the options say otherwise."""
        given = {"context": 1024, "slots": 4, "threads": 1, "devices": (self.name,)} | options
        return EngineConfig(model(), rpc=self.rpc, **given)

    def look(self) -> Device:
        devices, _ = native.list_devices(self.rpc)
        return next(device for device in devices if device.name == self.name)

    @contextlib.contextmanager
    def ballast(self, leave: int) -> Iterator[None]:
        """Somebody else takes the device's memory but for `leave` bytes, and it says so."""
        over = self.look().free - leave
        with contextlib.ExitStack() as held:
            for at in range(0, over, _PIECE):
                held.callback(_free, self._take(min(over - at, _PIECE)))
            if self.look().free > leave + _BLUR:
                pytest.skip(f"{self.name} does not say what is taken of it")
            yield

    def says_what_is_taken(self) -> bool:
        """Drivers of Vulkan need not."""
        before, size = self.look().free, 4 * _BLUR
        buffer = self._take(size)
        after = self.look().free
        _free(buffer)
        return before - after > size - _BLUR

    def _take(self, size: int) -> ctypes.c_void_p:
        """A buffer of ggml's own, written to: memory that nobody touched may not be there yet."""
        ggml = native.libggml
        ggml.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
        ggml.ggml_backend_buft_alloc_buffer.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(native.device_handle(self.name))
        kind = ctypes.c_void_p(ggml.ggml_backend_dev_buffer_type(handle))
        buffer = ggml.ggml_backend_buft_alloc_buffer(kind, ctypes.c_size_t(size))
        assert buffer, f"{self.name} has no {size} bytes"
        held = ctypes.c_void_p(buffer)
        ggml.ggml_backend_buffer_clear(held, ctypes.c_uint8(1))
        return held


def _free(buffer: ctypes.c_void_p) -> None:
    native.libggml.ggml_backend_buffer_free(buffer)


def find(endpoints: tuple[str, ...] = ()) -> Target:
    """The first device of the wanted kind; the test fails if there is none."""
    native.start()
    assert not connect(endpoints), "the worker cannot be reached"
    devices, backends = native.list_devices(endpoints)
    kind = "RPC" if endpoints else REGISTERED[WANTED]  # type: ignore[index]
    found = [device.name for device in devices if device.backend.startswith(kind)]
    if not found:
        pytest.fail(f"no device of {kind} is seen; llama.cpp's backends: {', '.join(backends)}")
    return Target(found[0], endpoints)
