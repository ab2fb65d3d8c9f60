"""Qwen2 with experts and one that all tokens share, such as Qwen1.5-MoE-A2.7B; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, experts
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("Qwen2MoeForCausalLM",)
GGUF = "qwen2moe"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "decoder_sparse_step": 1,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "qwen"

extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    mlp = f"{decoder.LAYER}.mlp"
    gate = Row(
        f"{mlp}.shared_expert_gate.weight", "blk.{i}.ffn_gate_inp_shexp.weight", ("one", "hidden")
    )
    return [
        *experts.without_mlp(decoder.rows(config, qkv_bias="required")),
        *experts.rows(f"{mlp}.experts", f"{mlp}.gate.weight"),
        *experts.shared(f"{mlp}.shared_expert"),
        gate,
    ]


def sizes(config: Config) -> dict[str, int]:
    experts.check_every_layer(config)
    shared = config.count("shared_expert_intermediate_size")
    found = decoder.sizes(config) | experts.sizes(config, "moe_intermediate_size")
    return found | {"shared_ff": shared, "one": 1}


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.metadata(config)
    for name, key in (
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ):
        yield name, "uint32", config.count(key)
