"""The figures of a report, drawn from a finished conversion. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from convert.report import Converted, Measured

WORST = 12
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Summary:
    """`done.measured` holds the tensors."""

    done: Converted

    @property
    def tensors(self) -> tuple[Measured, ...]:
        return self.done.measured

    @property
    def quantized(self) -> list[Measured]:
        return [tensor for tensor in self.tensors if tensor.type != "F32"]

    @property
    def bits(self) -> float:
        """Bits for each weight, of the whole file."""
        return 8 * self.done.size / self.done.parameters

    @property
    def error(self) -> float:
        return error_of(self.tensors)

    @property
    def worst(self) -> list[Measured]:
        return sorted(self.quantized, key=lambda tensor: -tensor.error)[:WORST]

    @property
    def fallbacks(self) -> list[Measured]:
        return [tensor for tensor in self.tensors if tensor.instead_of]

    @property
    def partial(self) -> bool:
        """Whether some values were read in an earlier run, or twice because they arrived wrong."""
        return any(tensor.values != math.prod(tensor.shape) for tensor in self.tensors)

    def by_type(self) -> list[tuple[str, list[Measured]]]:
        """Each type with its tensors, the one that takes most of the file first."""
        names = {tensor.type for tensor in self.tensors}
        groups = [(name, [t for t in self.tensors if t.type == name]) for name in names]
        return sorted(groups, key=lambda group: -sum(tensor.size for tensor in group[1]))

    def as_json(self) -> dict[str, Any]:
        done = self.done
        return {
            "model": done.name,
            "quantization": done.quant,
            "architecture": done.architecture,
            "parameters": done.parameters,
            "bytes": done.size,
            "bits_per_weight": self.bits,
            "relative_error": self.error,
            "seconds": done.seconds,
            "warnings": list(done.warnings),
            "partly_measured": self.partial,
            "worst": [tensor.name for tensor in self.worst],
            "tensors": [
                {
                    "name": tensor.name,
                    "type": tensor.type,
                    "instead_of": tensor.instead_of or None,
                    "shape": tensor.shape,
                    "bytes": tensor.size,
                    "bits_per_weight": tensor.bits,
                    "relative_error": tensor.error,
                }
                for tensor in self.tensors
            ],
            "evaluation": dataclasses.asdict(done.evaluation) if done.evaluation else None,
        }


def error_of(tensors: Iterable[Measured]) -> float:
    """The relative error of several tensors together."""
    some = list(tensors)
    squares = sum(tensor.squares for tensor in some)
    difference = sum(tensor.error**2 * tensor.squares for tensor in some)
    return math.sqrt(difference / squares) if squares else 0.0


def place(name: str) -> tuple[int | None, str]:
    """A tensor's layer, None outside the layers, and what it is: `blk.3.ffn_up.weight`."""
    match = _LAYER.fullmatch(name)
    what = (match[2] if match else name).removesuffix(".weight")
    return (int(match[1]) if match else None), what
