"""Qwen3, dense: tables only; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.arch import decoder, qwen2
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("Qwen3ForCausalLM", "Qwen3Model")
GGUF = "qwen3"
DEFAULTS: Mapping[str, Any] = {**qwen2.DEFAULTS, "head_dim": 128}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "qwen"

sizes = decoder.sizes
metadata = decoder.metadata
extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    return decoder.rows(config, qkv_bias="optional", head_norms=True)
