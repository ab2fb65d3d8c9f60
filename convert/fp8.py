"""8-bit floats with a scale for each block of a matrix, as DeepSeek-V3 and Qwen3-FP8 are published.

Knows no family: which tensors are stored so, the names of their scales say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convert.safetensors_file import Stored
from portable.errors import CheckpointError, UnsupportedModel

SCALE = "_scale_inv"
# What only programs need that compute in 8 bits.
ACTIVATION = ("_activation_scale", ".activation_scale", ".input_scale")


def block_size(settings: Any) -> tuple[int, int] | None:
    """Rows and columns that share a scale, out of quantization_config; None: the whole matrix."""
    found = settings.get("weight_block_size")
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != 2:
        found = [0, 0]
    rows, columns = found
    if not all(type(n) is int and 1 <= n <= 1 << 20 for n in (rows, columns)):
        raise UnsupportedModel(
            f"config.json: weight_block_size is {settings['weight_block_size']!r:.40}, "
            "expected two whole numbers"
        )
    return rows, columns


def with_scales(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensors, each 8-bit one with its scales; CheckpointError where they do not fit."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "fp8":
        return dict(tensors)
    block = block_size(settings)
    found = {}
    for name, stored in tensors.items():
        if name.endswith((SCALE, *ACTIVATION)):
            continue
        scale = tensors.get(name + SCALE)
        if stored.dtype == "F8_E4M3":
            if scale is None:
                raise CheckpointError(f"{name}{SCALE} is missing", hint="download it again")
            stored = replace(stored, scale=scale, block=_fitting(stored, scale, block))
        found[name] = stored
    return found


def _fitting(stored: Stored, scale: Stored, block: tuple[int, int] | None) -> tuple[int, int]:
    """The block that a scale is for, in rows and columns of `stored`."""
    if block is None and math.prod(scale.shape) == 1:
        return stored.shape[0], stored.shape[-1]
    if block is not None and len(stored.shape) == len(scale.shape) == 2:
        wanted = tuple(-(-n // size) for n, size in zip(stored.shape, block, strict=True))
        if scale.shape == wanted:
            return block
    raise CheckpointError(
        f"{scale.name} has shape {list(scale.shape)}, which does not fit {list(stored.shape)}",
        hint="download the checkpoint again",
    )
