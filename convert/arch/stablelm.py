"""StableLM 2: LayerNorm with a bias, a quarter of each head rotated; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder
from convert.arch.decoder import BLOCK, LAYER
from convert.arch.table import Row
from convert.config import Config

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
    bias = "required" if config.flag("use_qkv_bias") else ""
    # Where both parts read the same values, there is one norm for the two.
    norms = decoder.PRE_NORMS[: 1 if config.flag("use_parallel_residual") else 2]
    return [
        *decoder.ends(),
        Row("model.norm.bias", "output_norm.bias", ("hidden",)),
        *decoder.norms(norms),
        *(
            Row(f"{LAYER}.{source}.bias", f"{BLOCK}.{target}.bias", ("hidden",))
            for source, target in norms
        ),
        *(head_norms() if config.flag("qk_layernorm") else []),
        *decoder.attention(config, bias),
        *decoder.mlp(),
    ]


def head_norms() -> list[Row]:
    """The 12B's: a norm for each head, stacked."""
    return [
        Row(
            f"{LAYER}.self_attn.{part}_layernorm.norms.{{e}}.weight",
            f"{BLOCK}.attn_{part}_norm.weight",
            ("head",),
            stack=heads,
        )
        for part, heads in (("q", "heads"), ("k", "kv_heads"))
    ]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    """Files from before transformers knew the family have two keys under other names."""
    yield from decoder.shape(config)
    part = config.number("rope_pct" if "rope_pct" in config else "partial_rotary_factor")
    yield "rope.dimension_count", "uint32", int(part * config.head_dim)
    epsilon = config.number("norm_eps" if "norm_eps" in config else "layer_norm_eps")
    yield "use_parallel_residual", "bool", config.flag("use_parallel_residual")
    yield "attention.layer_norm_epsilon", "float32", epsilon
    yield from decoder.unusual_rope(config)
