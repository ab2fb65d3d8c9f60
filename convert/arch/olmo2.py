"""OLMo 2: norms after each part, and over all query and key heads together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.arch import decoder
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("Olmo2ForCausalLM",)
GGUF = "olmo2"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "olmo2"
NORMS = (
    ("post_attention_layernorm", "post_attention_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
)

sizes = decoder.sizes
metadata = decoder.metadata
extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    return [
        *decoder.ends(),
        *decoder.norms(NORMS),
        *decoder.norms(decoder.HEAD_NORMS[:1], "q"),
        *decoder.norms(decoder.HEAD_NORMS[1:], "kv"),
        *decoder.attention(config),
        *decoder.mlp(),
    ]
