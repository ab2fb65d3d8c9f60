"""Qwen3 with experts, such as Qwen3-30B-A3B: tables only; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, experts
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("Qwen3MoeForCausalLM",)
GGUF = "qwen3moe"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "qwen"

extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    mlp = f"{decoder.LAYER}.mlp"
    return [
        *experts.without_mlp(decoder.rows(config, qkv_bias="optional", head_norms=True)),
        *experts.rows(f"{mlp}.experts", f"{mlp}.gate.weight"),
    ]


def sizes(config: Config) -> dict[str, int]:
    experts.check_every_layer(config)
    return decoder.sizes(config) | experts.sizes(config, "moe_intermediate_size")


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.metadata(config)
    yield "expert_feed_forward_length", "uint32", config.count("moe_intermediate_size")
