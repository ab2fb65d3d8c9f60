"""The native door: rows of numbers in, rows of a ggml type out; knows no tensor name, no file."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from portable.errors import CheckpointError, EngineError
from portable.tensortype import TensorType

SOURCE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
F8_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
_scratch = threading.local()
_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """ggml.h's ggml_type_traits, up to what is used."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _ToFloat),
    )


def library_path() -> Path:
    """The libggml-base that libllama itself links: the wheel ships copies under other names.

    Found without importing llama_cpp, which would load the whole runtime to quantize a row.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise EngineError("llama-cpp-python is not installed", hint="pip install portable-llm")
    folder = Path(spec.origin).parent / "lib"
    names = {
        "win32": ("ggml-base.dll", "libggml-base.dll"),
        "darwin": ("libggml-base.0.dylib", "libggml-base.dylib"),
    }.get(sys.platform, ("libggml-base.so.0", "libggml-base.so"))
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise EngineError(f"llama-cpp-python carries no {names[0]}", hint="reinstall llama-cpp-python")


@cache
def library() -> Any:
    try:
        lib = ctypes.CDLL(str(library_path()))
    except OSError as error:
        raise EngineError(f"libggml cannot be loaded: {error}") from error
    pointer, long, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_quantize_init.restype = None
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
    lib.ggml_quantize_chunk.restype = size
    lib.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, size]
    lib.ggml_validate_row_data.restype = ctypes.c_bool
    lib.ggml_row_size.argtypes = [ctypes.c_int, long]
    lib.ggml_row_size.restype = size
    for name in ("ggml_bf16_to_fp32_row", "ggml_fp16_to_fp32_row"):
        getattr(lib, name).argtypes = [pointer, pointer, long]
        getattr(lib, name).restype = None
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    return lib


def prepare(types: set[TensorType]) -> None:
    """Builds ggml's tables once, before threads need them, and holds our table against ggml's."""
    for kind in sorted(types):
        library().ggml_quantize_init(kind.id)
        if library().ggml_row_size(kind.id, kind.block) != kind.bytes:
            raise EngineError(
                f"libggml stores {kind.name} in another way",
                hint="install the llama-cpp-python version that portable-llm asks for",
            )


def _buffer(values: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """This thread's own float32 scratch: fresh pages for each chunk cost more than the work."""
    held = getattr(_scratch, "held", None)
    if held is None or held.size < values:
        held = _scratch.held = np.empty(values, np.float32)
    return held[:values]


def to_float32(raw: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Bytes of `SOURCE_BYTES`'s types as float32 values, valid until this thread's next call."""
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "F8_E4M3":
        return np.take(F8_VALUES, raw, out=_buffer(raw.size))
    values = raw.nbytes // 2
    out = _buffer(values)
    name = "ggml_bf16_to_fp32_row" if dtype == "BF16" else "ggml_fp16_to_fp32_row"
    getattr(library(), name)(raw.ctypes.data, out.ctypes.data, values)
    return out


def quantize_rows(
    values: np.ndarray[Any, np.dtype[np.float32]],
    kind: TensorType,
    weights: np.ndarray[Any, np.dtype[np.float32]] | None = None,
) -> np.ndarray[Any, Any]:
    """Rows of float32, [rows, columns], as rows of `kind`; CheckpointError on a NaN or infinity.

    `weights`, [columns], say how much an error in each column matters.
    """
    # A NaN survives min and max, so two cheap passes see every value.
    if not (np.isfinite(values.max()) and np.isfinite(values.min())):
        raise CheckpointError("NaN or infinite values")
    rows, columns = values.shape
    out = np.empty(values.size // kind.block * kind.bytes, np.uint8)
    library().ggml_quantize_chunk(
        kind.id,
        values.ctypes.data,
        out.ctypes.data,
        0,
        rows,
        columns,
        None if weights is None else weights.ctypes.data,
    )
    if not is_valid(kind, out):
        raise CheckpointError(f"values too large for {kind.name}")
    return out


def dequantize(
    data: np.ndarray[Any, Any], kind: TensorType
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Bytes of whole blocks as the float32 values that they stand for."""
    if kind.name == "F32":
        return np.array(data.view(np.float32))
    out = np.empty(data.size // kind.bytes * kind.block, np.float32)
    traits = library().ggml_get_type_traits(kind.id).contents
    traits.to_float(data.ctypes.data, out.ctypes.data, out.size)
    return out


def is_valid(kind: TensorType, data: np.ndarray[Any, Any]) -> bool:
    """Whether bytes of whole blocks stand for finite values, as far as ggml looks."""
    return bool(library().ggml_validate_row_data(kind.id, data.ctypes.data, data.nbytes))
