"""The tensors of a running computation, as ggml hands them to its eval callback.

The layout of ggml's struct is no promise: before a model's tensor is looked at, it is held against
what ggml's own functions say of tensors made for that.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from convert.quantize import library_path
from portable.engine.native import lib
from portable.errors import EngineError

MATMUL, MATMUL_OF_EXPERTS = b"MUL_MAT", b"MUL_MAT_ID"
TYPES = {0: np.dtype(np.float32), 26: np.dtype(np.int32)}
_DIMS = 4
_pointer, _long, _size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t


class _Struct(ctypes.Structure):
    """The beginning of `struct ggml_tensor`, up to the operands."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", _pointer),
        ("ne", _long * _DIMS),
        ("nb", _size * _DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", _pointer * 3),
    )


class Tensor:
    """A tensor that ggml computes with: valid only until the callback returns."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._struct = _Struct.from_address(address)

    @property
    def name(self) -> str:
        return str(_ggml().ggml_get_name(self._address).decode("utf-8", "replace"))

    @property
    def operation(self) -> bytes:
        return bytes(_ggml().ggml_op_desc(self._address))

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy counts: the row's length last, always four numbers."""
        return tuple(self._struct.ne)[::-1]

    @property
    def is_float32(self) -> bool:
        return TYPES.get(self._struct.type) == np.float32

    def operand(self, number: int) -> Tensor:
        return Tensor(self._struct.src[number])

    def read(self) -> np.ndarray[Any, Any]:
        """A copy of its values, in `shape`, wherever they lie; float32 or int32."""
        held = np.empty(_ggml().ggml_nbytes(self._address), np.uint8)
        _ggml().ggml_backend_tensor_get(self._address, held.ctypes.data, 0, held.nbytes)
        kind = TYPES[self._struct.type]
        strides = tuple(self._struct.nb)[::-1]
        return np.lib.stride_tricks.as_strided(held.view(kind), self.shape, strides)


class Watch:
    """ggml's eval callback in Python: `wants` is asked of each tensor, `take` gets those computed.

    An error in either stops the computation, and `check` raises it once llama.cpp has returned.
    """

    def __init__(self, wants: Callable[[Tensor], bool], take: Callable[[Tensor], None]) -> None:
        _check_layout()
        self._wants = wants
        self._take = take
        self._error: BaseException | None = None
        self.callback = lib.ggml_backend_sched_eval_callback(self._call)

    def _call(self, address: int, ask: bool, _data: object) -> bool:
        if self._error is None:
            try:
                if ask:
                    return self._wants(Tensor(address))
                self._take(Tensor(address))
                return True
            except BaseException as error:  # it must not go through C
                self._error = error
        # Once more: "compute up to here", and when that is done "compute no further".
        return ask

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets Ctrl-C stop a computation. For the main thread.

        Python raises it where a function begins, which here would be outside of any `try`.
        """

        def note(_signal: int, _frame: object) -> None:
            self._error = KeyboardInterrupt()

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@cache
def _ggml() -> Any:
    ggml = ctypes.CDLL(str(library_path()))
    functions: tuple[tuple[Any, ...], ...] = (
        ("ggml_get_name", ctypes.c_char_p, _pointer),
        ("ggml_op_desc", ctypes.c_char_p, _pointer),
        ("ggml_nbytes", _size, _pointer),
        ("ggml_backend_tensor_get", None, _pointer, _pointer, _size, _size),
        ("ggml_init", _pointer, _InitParams),
        ("ggml_free", None, _pointer),
        ("ggml_new_tensor_4d", _pointer, _pointer, ctypes.c_int, *[_long] * _DIMS),
        ("ggml_mul_mat", _pointer, _pointer, _pointer, _pointer),
        ("ggml_type_name", ctypes.c_char_p, ctypes.c_int),
    )
    for name, result, *arguments in functions:
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    return ggml


class _InitParams(ctypes.Structure):
    _fields_ = (("size", _size), ("buffer", _pointer), ("no_alloc", ctypes.c_bool))


@cache
def _check_layout() -> None:
    """Holds `_Struct` and `TYPES` against tensors that ggml itself has made."""
    ggml = _ggml()
    context = ggml.ggml_init(_InitParams(1 << 16, None, True))
    try:
        left = ggml.ggml_new_tensor_4d(context, 0, 3, 5, 7, 2)
        right = ggml.ggml_new_tensor_4d(context, 0, 3, 4, 7, 2)
        product = Tensor(ggml.ggml_mul_mat(context, left, right))
        found = (
            product.operation,
            product.shape,
            tuple(product._struct.nb),
            tuple(product._struct.src),
            [ggml.ggml_type_name(number) for number in TYPES],
        )
    finally:
        ggml.ggml_free(context)
    strides = (4, 4 * 5, 4 * 5 * 4, 4 * 5 * 4 * 7)
    if found != (MATMUL, (2, 7, 4, 5), strides, (left, right, None), [b"f32", b"i32"]):
        raise EngineError(
            "libggml lays out its tensors in another way",
            hint="install the llama-cpp-python version that portable-llm asks for",
        )
