"""Qwen2 and Qwen2.5: tables only; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.arch import decoder
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("Qwen2ForCausalLM", "Qwen2Model")
GGUF = "qwen2"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "qwen"

sizes = decoder.sizes
metadata = decoder.metadata
extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    return decoder.rows(config, qkv_bias="required")
