"""Checkpoints that are quantized already: which can be read, and what to take instead of others.

Knows names, config.json and model cards; no weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from convert.fp8 import block_size
from portable.errors import UnsupportedModel

# What publishers add to a model's name, one after another, when they quantize it.
SUFFIX = re.compile(
    r"[-_.](awq|gptq|bnb|bitsandbytes|autoround|hqq|quantized|unsloth|dynamic"
    r"|[48][-_]?bits?|(w|int|nf|fp)\d+(a\d+)?|g\d+)$",
    re.IGNORECASE,
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_precision(
    config: Mapping[str, Any], family: str, name: str = "", card: Mapping[str, Any] | None = None
) -> None:
    """UnsupportedModel, with the model to take instead, for weights that cannot be read.

    `name` is the model's hub id, `card` the front matter of its README.md, where they are known.
    """
    settings = config.get("quantization_config") or config.get("compression_config")
    if not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method == "fp8":
        block_size(settings)
        return
    if method == "mxfp4" and family == "gpt_oss":
        return
    raise UnsupportedModel(
        f"the checkpoint is already quantized ({method or 'unknown method'})",
        hint=f"convert the original model{original(name, card or {})}",
    )


def original(name: str, card: Mapping[str, Any]) -> str:
    """Which that is, in a few words: by the card, else by the name without what says so."""
    base = card.get("base_model")
    if isinstance(base, list) and len(base) == 1:
        base = base[0]
    if isinstance(base, str) and HUB_ID.fullmatch(base) and base != name:
        return f", {base}"
    shorter = name
    while (cut := SUFFIX.sub("", shorter)) != shorter:
        shorter = cut
    if shorter and shorter != name:
        return f": by its name that is {shorter}"
    return ", whose weights are BF16, F16 or F32"
