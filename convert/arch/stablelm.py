"""StableLM 2: LayerNorm with a bias, a quarter of each head rotated; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder
from convert.arch.table import Row
from convert.config import Config
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("StableLmForCausalLM", "StableLMEpochForCausalLM")
GGUF = "stablelm"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
    "use_parallel_residual": False,
    "use_qkv_bias": False,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "stablelm"

sizes = decoder.sizes
extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    if config.flag("qk_layernorm"):
        raise UnsupportedModel("StableLM with a norm for each head (12B) is not supported")
    bias = "required" if config.flag("use_qkv_bias") else ""
    norms = (
        ("model.norm", "output_norm"),
        *(
            (f"{decoder.LAYER}.{source}", f"{decoder.BLOCK}.{target}")
            for source, target in decoder.PRE_NORMS
        ),
    )
    return [
        *decoder.ends(),
        *decoder.norms(decoder.PRE_NORMS),
        *(Row(f"{source}.bias", f"{target}.bias", ("hidden",)) for source, target in norms),
        *decoder.attention(config, bias),
        *decoder.mlp(),
    ]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.shape(config)
    part = config.number("partial_rotary_factor")
    yield "rope.dimension_count", "uint32", int(part * config.head_dim)
    yield "use_parallel_residual", "bool", config.flag("use_parallel_residual")
    yield "attention.layer_norm_epsilon", "float32", config.number("layer_norm_eps")
    yield from decoder.unusual_rope(config)
