"""How far quantized rows are from the rows that they were made of; knows no file and no name."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from convert.quantize import dequantize
from portable.tensortype import TensorType

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Error:
    """Sums over one tensor's values x and what they became, q. Any thread may add to them."""

    def __init__(self) -> None:
        self.squares = 0.0  # of x
        self.difference = 0.0  # squares of x - q
        self.values = 0
        self._lock = threading.Lock()

    def add(self, values: Floats, data: np.ndarray[Any, Any], kind: TensorType) -> None:
        """Some rows as float32, and the same as bytes of `kind`."""
        flat = values.reshape(-1)
        gone = dequantize(data, kind)
        np.subtract(flat, gone, out=gone)
        squares, difference = float(np.dot(flat, flat)), float(np.dot(gone, gone))
        with self._lock:
            self.squares += squares
            self.difference += difference
            self.values += flat.size

    @property
    def relative(self) -> float:
        """sqrt(sum (x - q)² / sum x²)."""
        return math.sqrt(self.difference / self.squares) if self.squares else 0.0
