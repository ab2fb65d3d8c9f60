"""GLM-4 of 2025 (GLM-4-0414, GLM-Z1): norms around each part, half of a head rotated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("Glm4ForCausalLM",)
GGUF = "glm4"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "glm4"
POST_NORMS = (
    ("post_self_attn_layernorm", "post_attention_norm"),
    ("post_mlp_layernorm", "post_ffw_norm"),
)

sizes = decoder.sizes
extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    return [
        *decoder.ends(),
        *decoder.norms(decoder.PRE_NORMS + POST_NORMS),
        *decoder.attention(config, bias="optional"),
        *decoder.fused_mlp(),
    ]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.metadata(config)
    yield rope_dimensions(config)


def rope_dimensions(config: Config) -> tuple[str, str, Any]:
    part = config.number("partial_rotary_factor")
    return "rope.dimension_count", "uint32", int(config.head_dim * part)
