"""4-bit floats of gpt-oss, which are kept as they are: only their order within a block changes.

A block is 32 values in 16 bytes with an exponent of its own; both sides mean the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from convert.quantize import is_valid
from convert.safetensors_file import Bytes, Stored
from portable.errors import CheckpointError
from portable.tensortype import TYPES

NAME = "MXFP4"
BLOCKS, SCALES = "_blocks", "_scales"
BLOCK, BLOCK_BYTES = 32, 16


def with_scales(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensors, `X_blocks` and `X_scales` as one X; CheckpointError where they do not fit."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "mxfp4":
        return dict(tensors)
    found = {}
    for name, stored in tensors.items():
        base = name.removesuffix(BLOCKS)
        if base != name:
            found[base] = _joined(base, stored, tensors.get(base + SCALES))
        elif name.removesuffix(SCALES) + BLOCKS not in tensors:
            found[name] = stored
    return found


def _joined(name: str, blocks: Stored, scale: Stored | None) -> Stored:
    *rows, count, size = blocks.shape if len(blocks.shape) > 2 else (0, 0, 0)
    whole = scale is not None and scale.shape == (*rows, count) and size == BLOCK_BYTES
    if not whole or {blocks.dtype, scale.dtype if scale else ""} != {"U8"}:
        raise CheckpointError(
            f"{name}{BLOCKS} and {name}{SCALES} are not 4-bit blocks and their exponents",
            hint="download the checkpoint again",
        )
    return replace(blocks, name=name, dtype=NAME, shape=(*rows, count * BLOCK), scale=scale)


def packed(blocks: Bytes, scales: Bytes) -> Bytes:
    """[rows, bytes] and [rows, blocks] as ggml's rows: exponent, then 16 bytes, block by block.

    In a byte the checkpoint has neighbours; ggml has a value and the one 16 later.
    """
    pairs = blocks.reshape(*scales.shape, BLOCK_BYTES)
    values = np.stack((pairs & 0x0F, pairs >> 4), axis=-1).reshape(*scales.shape, BLOCK)
    halves = values[..., :BLOCK_BYTES] | values[..., BLOCK_BYTES:] << 4
    out = np.concatenate((scales[..., None], halves), axis=-1).reshape(-1)
    if not is_valid(TYPES[NAME], out):
        raise CheckpointError("NaN or infinite values")
    return out
