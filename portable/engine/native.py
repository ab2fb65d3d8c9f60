"""THE native door: llama_cpp's functions, imported once, with the settings that it reads then.

Only the modules named in `tests/test_layout.py` may come through it: each guards what it calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from portable.engine import death, libllama
from portable.engine.cores import default_threads
from portable.engine.offload.device import Device, Kind
from portable.errors import (
    EngineError,
    ModelFileError,
    OutOfMemory,
    PortableError,
    UnsupportedModel,
)

# ggml reads this when it is loaded; without it an abort first waits for a debugger.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# So does libgomp. Measured on two cores: its long spinning collapses as soon as another program
# runs, short spinning costs nothing. With many cores waking them up may cost more: not measured.
if default_threads() <= 4:
    os.environ.setdefault("GOMP_SPINCOUNT", "100")

# What would end this process ends another one.
libllama.check()
try:
    import llama_cpp as lib
    from llama_cpp import llama_cpp
except (ImportError, OSError, RuntimeError, AttributeError) as error:
    raise libllama.unusable(death.explain(None, str(error))) from error


class Libraries:
    """Several libraries as one: a function is the first one's that has it."""

    def __init__(self, *libraries: Any) -> None:
        self._libraries = libraries

    def __getattr__(self, name: str) -> Any:
        found = (getattr(library, name, None) for library in self._libraries)
        if function := next((f for f in found if f), None):
            return function
        raise AttributeError(f"llama.cpp's libraries have no {name}")


_folder = Path(llama_cpp._base_path)
# The wheel holds libggml under two names, and each copy has a list of backends of its own: this is
# the one that libllama uses. Windows finds a function only in the library that exports it.
if sys.platform == "win32":
    _names = ("ggml", "ggml-base")
    libggml: Any = Libraries(*(llama_cpp.load_shared_library(name, _folder) for name in _names))
else:
    libggml = llama_cpp._lib

__all__ = [
    "BEGINNING",
    "LOG",
    "SMALLER",
    "allocation_failed",
    "device_handle",
    "last_words",
    "lib",
    "libggml",
    "list_devices",
    "listen",
    "load_model",
    "start",
    "use_numa",
]

_KINDS: dict[int, Kind] = {1: "gpu", 2: "igpu"}  # GGML_BACKEND_DEVICE_TYPE_GPU, _IGPU
# What ggml, its backends and llama.cpp say of memory that they do not get.
_NO_MEMORY = re.compile(
    r"out of memory|(unable|failed) to (re)?allocate(?!.*(pinned|reorder))|bad_alloc"
    r"|alloc(ation)?( of size \d+)? failed(?!, retrying)|failed to reserve memory"
    r"|OutOf(Device|Host)Memory",
    re.IGNORECASE,
)
SMALLER = "try a smaller --context or a smaller --quant"
NO_MEMORY = -2  # llama_decode's answer when its buffers cannot be made larger
_NUMA: list[str] = []  # ggml takes the first strategy only
LOG: deque[str] = deque(maxlen=400)
BEGINNING: list[str] = []  # what was said while the backends were loaded
_listening: dict[int, list[str]] = {}


def _remember(_level: int, text: bytes, _data: object) -> None:
    words = text.decode("utf-8", "replace")
    LOG.append(words)
    for heard in list(_listening.values()):
        heard.append(words)


# llama.cpp keeps the pointer: the callback must live as long as the process.
_log = lib.llama_log_callback(_remember)


def start() -> None:
    """Before anything else is called; again does no harm."""
    lib.llama_log_set(_log, ctypes.c_void_p(0))
    with listen() as said:
        _start()
    BEGINNING.extend(said)


def _start() -> None:
    if not libggml.ggml_backend_reg_count():
        _load_backends(_folder)
    lib.llama_backend_init()


def _load_backends(folder: Path) -> None:
    """Of a build with GGML_BACKEND_DL: each one that runs here, the best of several for this CPU.

    llama.cpp itself would look beside the Python interpreter and in the current folder.
    """
    libggml.ggml_backend_load_all_from_path(os.fsencode(folder))
    if not libggml.ggml_backend_dev_count():
        raise EngineError(f"no backend of llama.cpp can be loaded from {folder}: {last_words()}")


@contextlib.contextmanager
def listen() -> Iterator[list[str]]:
    """All that llama.cpp says meanwhile, in pieces of lines; LOG keeps the end of it only."""
    heard: list[str] = []
    _listening[id(heard)] = heard
    try:
        yield heard
    finally:
        del _listening[id(heard)]


def use_numa(strategy: str) -> None:
    """Place threads on machines with several memories: for all of the process, once."""
    if strategy != "off" and not _NUMA:
        _NUMA.append(strategy)
        lib.llama_numa_init(getattr(lib, f"GGML_NUMA_STRATEGY_{strategy.upper()}"))


def load_model(path: Path, params: lib.llama_model_params) -> lib.llama_model_p:
    """A model, which its owner frees. Raises ModelFileError, UnsupportedModel or OutOfMemory."""
    with listen() as said:
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise _load_error(path, "".join(said))
    return model


def list_devices(workers: Collection[str] = ()) -> tuple[list[Device], list[str]]:
    """The GPUs that the compiled-in backends see, and the names of these backends.

    Devices of these `workers` too, which are connected; asking others for their memory would abort.
    """
    for name in ("dev_get", "reg_get", "dev_backend_reg"):
        getattr(libggml, f"ggml_backend_{name}").restype = ctypes.c_void_p
    for name in ("dev_name", "dev_description", "reg_name"):
        getattr(libggml, f"ggml_backend_{name}").restype = ctypes.c_char_p
    backends = [
        libggml.ggml_backend_reg_name(ctypes.c_void_p(libggml.ggml_backend_reg_get(i))).decode()
        for i in range(libggml.ggml_backend_reg_count())
    ]
    found = [
        ctypes.c_void_p(libggml.ggml_backend_dev_get(i))
        for i in range(libggml.ggml_backend_dev_count())
    ]
    gpus = [device for device in found if libggml.ggml_backend_dev_type(device) in _KINDS]
    return [
        _device(d) for d in gpus if _backend(d) != "RPC" or _description(d) in workers
    ], backends


def device_handle(name: str) -> int:
    """ggml's pointer to a device of `list_devices`. Raises EngineError if it is gone."""
    libggml.ggml_backend_dev_by_name.restype = ctypes.c_void_p
    found: int | None = libggml.ggml_backend_dev_by_name(name.encode())
    if not found:
        raise EngineError(f"the device {name} is gone")
    return found


def _device(handle: ctypes.c_void_p) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    libggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    backend, description = _backend(handle), _description(handle)
    return Device(
        libggml.ggml_backend_dev_name(handle).decode(),
        description,
        free.value,
        total.value,
        "rpc" if backend == "RPC" else _KINDS[libggml.ggml_backend_dev_type(handle)],
        f"RPC[{description}]" if backend == "RPC" else backend,
    )


def _backend(device: ctypes.c_void_p) -> str:
    reg = ctypes.c_void_p(libggml.ggml_backend_dev_backend_reg(device))
    name: bytes = libggml.ggml_backend_reg_name(reg)
    return name.decode()


def _description(device: ctypes.c_void_p) -> str:
    """A worker's is its endpoint."""
    text: bytes = libggml.ggml_backend_dev_description(device)
    return text.decode("utf-8", "replace")


def last_words() -> str:
    """llama.cpp's last error line."""
    lines = [line.strip() for line in "".join(LOG).splitlines()]
    return next((line for line in reversed(lines) if "error" in line or "failed" in line), "")


def allocation_failed(said: str) -> str:
    """The line of llama.cpp, or of a backend, that says so; empty if none does."""
    lines = (line.strip() for line in said.splitlines())
    return next((line for line in lines if _NO_MEMORY.search(line)), "")


def _load_error(path: Path, said: str) -> PortableError:
    if words := allocation_failed(said):
        return OutOfMemory(f"there is no memory for {path.name}: {words}", hint=SMALLER)
    words = next((line.strip() for line in LOG if "error" in line), last_words())
    kind = UnsupportedModel if "unknown model architecture" in words else ModelFileError
    return kind(f"llama.cpp cannot load {path.name}: {words}", hint="convert or download it again")
