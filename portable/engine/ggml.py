"""ggml by itself, without llama.cpp: one device, tensors in its memory, graphs that it computes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from portable.engine.native import libggml, start
from portable.errors import EngineError

F32, F16 = 0, 1  # GGML_TYPE_…
_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_pointer, _size, _int, _int64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
_float = ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_free": (None, [_pointer]),
    "ggml_tensor_overhead": (_size, []),
    "ggml_graph_overhead": (_size, []),
    "ggml_nbytes": (_size, [_pointer]),
    "ggml_new_tensor_2d": (_pointer, [_pointer, _int, _int64, _int64]),
    "ggml_new_tensor_3d": (_pointer, [_pointer, _int, _int64, _int64, _int64]),
    "ggml_permute": (_pointer, [_pointer, _pointer, _int, _int, _int, _int]),
    "ggml_mul_mat": (_pointer, [_pointer, _pointer, _pointer]),
    "ggml_add": (_pointer, [_pointer, _pointer, _pointer]),
    "ggml_flash_attn_ext": (_pointer, [_pointer] * 5 + [_float] * 3),
    "ggml_new_graph": (_pointer, [_pointer]),
    "ggml_build_forward_expand": (None, [_pointer, _pointer]),
    "ggml_backend_dev_by_type": (_pointer, [_int]),
    "ggml_backend_dev_by_name": (_pointer, [ctypes.c_char_p]),
    "ggml_backend_dev_type": (_int, [_pointer]),
    "ggml_backend_dev_init": (_pointer, [_pointer, ctypes.c_char_p]),
    "ggml_backend_free": (None, [_pointer]),
    "ggml_backend_dev_buffer_type": (_pointer, [_pointer]),
    "ggml_backend_dev_backend_reg": (_pointer, [_pointer]),
    "ggml_backend_reg_get_proc_address": (_pointer, [_pointer, ctypes.c_char_p]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_pointer, _pointer]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_pointer, [_pointer, _pointer]),
    "ggml_backend_buffer_free": (None, [_pointer]),
    "ggml_backend_tensor_set": (None, [_pointer, _pointer, _size, _size]),
    "ggml_backend_graph_compute": (_int, [_pointer, _pointer]),
}


class _Params(ctypes.Structure):
    """ggml.h's ggml_init_params."""

    _fields_ = (("mem_size", _size), ("mem_buffer", _pointer), ("no_alloc", ctypes.c_bool))


class Device:
    """A device with its buffer types, the ordinary one last; without a name the CPU.

    `threads` are the CPU's. Raises EngineError for a device that is not there.
    """

    def __init__(self, name: str = "", threads: int = 1) -> None:
        for function, (result, arguments) in _SIGNATURES.items():
            getattr(libggml, function).restype = result
            getattr(libggml, function).argtypes = arguments
        libggml.ggml_init.restype, libggml.ggml_init.argtypes = _pointer, [_Params]
        start()
        self._device = (
            libggml.ggml_backend_dev_by_name(name.encode())
            if name
            else libggml.ggml_backend_dev_by_type(_CPU)
        )
        self._backend = self._device and libggml.ggml_backend_dev_init(self._device, None)
        if not self._backend:
            raise EngineError(f"there is no device {name}", hint="portable devices lists them")
        self.buffers = [libggml.ggml_backend_dev_buffer_type(self._device)]
        if libggml.ggml_backend_dev_type(self._device) == _CPU:
            self._function("ggml_backend_set_n_threads", None, _pointer, _int)(
                self._backend, threads
            )
            self.buffers = [*self._extra_buffers(), *self.buffers]

    def _extra_buffers(self) -> list[int]:
        """Those that store a matrix as this CPU multiplies it fastest."""
        function = self._function(
            "ggml_backend_dev_get_extra_bufts", ctypes.POINTER(_pointer), _pointer
        )
        found: list[int] = []
        for buffer in function(self._device) or ():  # a C array that a NULL ends
            if not buffer:
                break
            found.append(buffer)
        return found

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        registry = libggml.ggml_backend_dev_backend_reg(self._device)
        address = libggml.ggml_backend_reg_get_proc_address(registry, name.encode())
        return ctypes.CFUNCTYPE(result, *arguments)(address)

    def supports(self, operation: int) -> bool:
        return bool(libggml.ggml_backend_dev_supports_op(self._device, operation))

    def context(self, stack: ExitStack, tensors: int) -> int:
        """Room for the descriptions of so many tensors and a graph."""
        size = libggml.ggml_tensor_overhead() * (tensors + 1) + libggml.ggml_graph_overhead()
        made = libggml.ggml_init(_Params(size, None, True))
        stack.callback(libggml.ggml_free, made)
        return int(made)

    def allocate(self, stack: ExitStack, context: int, buffer: int | None = None) -> None:
        """Memory for all tensors of the context, of the ordinary kind unless one is named."""
        made = libggml.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer or self.buffers[-1])
        if not made:
            raise EngineError("there is not enough memory to time kernels in")
        stack.callback(libggml.ggml_backend_buffer_free, made)

    def graph(self, context: int, results: Sequence[int]) -> int:
        graph = libggml.ggml_new_graph(context)
        for result in results:
            libggml.ggml_build_forward_expand(graph, result)
        return int(graph)

    def compute(self, graph: int) -> None:
        libggml.ggml_backend_graph_compute(self._backend, graph)


def fill(tensor: int) -> None:
    """With zeros: the kernels compute the same whatever the values are."""
    data = np.zeros(libggml.ggml_nbytes(tensor), np.uint8)
    libggml.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
