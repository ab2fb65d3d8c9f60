"""How fast this machine's CPU multiplies a matrix of a type by one token, timed with ggml itself.

Weights lie where llama.cpp would put them: in a buffer type that repacks them for this CPU, if it
has one for the type. Run in a process of its own: `python -m portable.engine.kernels`, JSON in and
out.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

import msgspec
import numpy as np

from portable.engine.cores import default_threads
from portable.engine.native import libggml, start

# All matrices take turns, so that each one comes from memory, as a model's weights do, and not from
# a cache; and a disturbance by another program hits them all.
WEIGHT_BYTES, ALL_BYTES = 16 << 20, 512 << 20
SECONDS = 1.0
_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_F32 = 0  # GGML_TYPE_F32
_pointer = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_free": (None, [_pointer]),
    "ggml_tensor_overhead": (ctypes.c_size_t, []),
    "ggml_graph_overhead": (ctypes.c_size_t, []),
    "ggml_nbytes": (ctypes.c_size_t, [_pointer]),
    "ggml_new_tensor_2d": (_pointer, [_pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
    "ggml_mul_mat": (_pointer, [_pointer, _pointer, _pointer]),
    "ggml_new_graph": (_pointer, [_pointer]),
    "ggml_build_forward_expand": (None, [_pointer, _pointer]),
    "ggml_backend_dev_by_type": (_pointer, [ctypes.c_int]),
    "ggml_backend_dev_init": (_pointer, [_pointer, ctypes.c_char_p]),
    "ggml_backend_free": (None, [_pointer]),
    "ggml_backend_dev_buffer_type": (_pointer, [_pointer]),
    "ggml_backend_dev_backend_reg": (_pointer, [_pointer]),
    "ggml_backend_reg_get_proc_address": (_pointer, [_pointer, ctypes.c_char_p]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_pointer, _pointer]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_pointer, [_pointer, _pointer]),
    "ggml_backend_buffer_free": (None, [_pointer]),
    "ggml_backend_tensor_set": (None, [_pointer, _pointer, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_graph_compute": (ctypes.c_int, [_pointer, _pointer]),
}


class _Params(ctypes.Structure):
    """ggml.h's ggml_init_params."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", _pointer),
        ("no_alloc", ctypes.c_bool),
    )


class Matrix(msgspec.Struct, frozen=True):
    """Rows of `columns` values of ggml's type number `type`, which takes `row_bytes` for each."""

    type: int
    columns: int
    row_bytes: int


class Request(msgspec.Struct):
    matrices: list[Matrix]
    threads: int = 0


def rates(request: Request) -> list[float]:
    """Seconds for each value of each matrix, timed for `SECONDS` together."""
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(libggml, name)
        function.restype, function.argtypes = result, arguments
    libggml.ggml_init.restype, libggml.ggml_init.argtypes = _pointer, [_Params]
    start()
    cpu = _Cpu(request.threads or default_threads())
    with ExitStack() as stack:
        size = min(WEIGHT_BYTES, ALL_BYTES // len(request.matrices))
        products = [cpu.product(stack, matrix, size) for matrix in request.matrices]
        best = [math.inf for _ in products]
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or math.inf in best:
            # What else runs on the machine only ever adds to a time.
            best = [min(before, cpu.run(product)) for before, product in zip(best, products)]
    return [seconds / product.values for seconds, product in zip(best, products)]


class _Product(NamedTuple):
    """A graph that multiplies matrices of `values` values in all by one vector."""

    graph: int
    values: int


class _Cpu:
    """The CPU backend with its buffer types, the ordinary one last."""

    def __init__(self, threads: int) -> None:
        self.device = libggml.ggml_backend_dev_by_type(_CPU)
        self.backend = libggml.ggml_backend_dev_init(self.device, None)
        set_threads = self._function("ggml_backend_set_n_threads", None, _pointer, ctypes.c_int)
        set_threads(self.backend, threads)
        extra = self._function(
            "ggml_backend_dev_get_extra_bufts", ctypes.POINTER(_pointer), _pointer
        )(self.device)
        self.buffers: list[int] = []
        for buffer in extra or ():  # a C array that a NULL ends
            if not buffer:
                break
            self.buffers.append(buffer)
        self.buffers.append(libggml.ggml_backend_dev_buffer_type(self.device))

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        registry = libggml.ggml_backend_dev_backend_reg(self.device)
        address = libggml.ggml_backend_reg_get_proc_address(registry, name.encode())
        return ctypes.CFUNCTYPE(result, *arguments)(address)

    def run(self, product: _Product) -> float:
        """Seconds for all its products."""
        begin = time.perf_counter()
        libggml.ggml_backend_graph_compute(self.backend, product.graph)
        return time.perf_counter() - begin

    def product(self, stack: ExitStack, matrix: Matrix, size: int) -> _Product:
        """Matrices as a layer has them, of about `size` bytes together; `stack` frees them."""
        rows = min(4096, max(64, size // matrix.row_bytes // 64 * 64))
        count = max(1, size // (rows * matrix.row_bytes))
        graph = self._graph(stack, matrix, rows, count)
        return _Product(graph, rows * count * matrix.columns)

    def _graph(self, stack: ExitStack, matrix: Matrix, rows: int, count: int) -> int:
        """`count` products with one vector, weights in the first buffer type that can do it."""
        for buffer in self.buffers:
            with ExitStack() as attempt:
                weights, products = self._context(attempt, count), self._context(attempt, count + 1)
                tensors = [
                    libggml.ggml_new_tensor_2d(weights, matrix.type, matrix.columns, rows)
                    for _ in range(count)
                ]
                self._allocate(attempt, weights, buffer)
                vector = libggml.ggml_new_tensor_2d(products, _F32, matrix.columns, 1)
                results = [libggml.ggml_mul_mat(products, tensor, vector) for tensor in tensors]
                if not libggml.ggml_backend_dev_supports_op(self.device, results[0]):
                    continue
                graph = libggml.ggml_new_graph(products)
                for result in results:
                    libggml.ggml_build_forward_expand(graph, result)
                self._allocate(attempt, products, self.buffers[-1])
                for tensor in (*tensors, vector):
                    _fill(tensor)
                stack.push(attempt.pop_all())
                return int(graph)
        raise ValueError(f"no buffer for type {matrix.type}")

    def _context(self, stack: ExitStack, tensors: int) -> int:
        size = libggml.ggml_tensor_overhead() * (tensors + 1) + libggml.ggml_graph_overhead()
        made = libggml.ggml_init(_Params(size, None, True))
        stack.callback(libggml.ggml_free, made)
        return int(made)

    def _allocate(self, stack: ExitStack, context: int, buffer: int) -> None:
        made = libggml.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer)
        stack.callback(libggml.ggml_backend_buffer_free, made)


def _fill(tensor: int) -> None:
    """With zeros: the kernels compute the same whatever the values are."""
    data = np.zeros(libggml.ggml_nbytes(tensor), np.uint8)
    libggml.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)


def main() -> int:
    """`python -m portable.engine.kernels`."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    results.write(msgspec.json.encode(rates(request)))
    results.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
