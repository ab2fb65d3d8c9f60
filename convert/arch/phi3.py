"""Phi-3 and Phi-4, whose fused matrices stay fused; knows no weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder
from convert.arch.table import Row, linear
from convert.config import Config
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("Phi3ForCausalLM",)
GGUF = "phi3"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "phi3"

sizes = decoder.sizes


def rows(config: Config) -> Sequence[Row]:
    attention = f"{decoder.LAYER}.self_attn"
    return [
        *decoder.ends(),
        *decoder.norms(decoder.PRE_NORMS),
        *linear(f"{attention}.qkv_proj", f"{decoder.BLOCK}.attn_qkv", ("qkv", "hidden")),
        *linear(f"{attention}.o_proj", f"{decoder.BLOCK}.attn_output", ("hidden", "q")),
        *decoder.fused_mlp(),
    ]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.shape(config)
    original = config.count("original_max_position_embeddings")
    yield "rope.scaling.original_context_length", "uint32", original
    yield "attention.layer_norm_rms_epsilon", "float32", config.number("rms_norm_eps")
    yield "rope.dimension_count", "uint32", rotated(config)
    yield "rope.freq_base", "float32", config.number("rope_theta")
    if "sliding_window" in config:
        yield "attention.sliding_window", "uint32", config.count("sliding_window")
    else:
        # llama.cpp tells Phi-4 from Phi-3 by the zero.
        yield "attention.sliding_window", "uint32", 0
    if extra_tensors(config):
        yield "rope.scaling.attn_factor", "float32", attention_factor(config)


def rotated(config: Config) -> int:
    """Values of a head that are rotated."""
    part = config.number("partial_rotary_factor")
    return int(part * config.count("hidden_size")) // config.heads


def attention_factor(config: Config) -> float:
    """How much longer contexts sharpen attention, by the kind of rope scaling."""
    original = config.count("original_max_position_embeddings")
    if original < 2:
        raise config.bad("original_max_position_embeddings", "more than 1")
    scale = config.count("max_position_embeddings") / original
    if scale <= 1:
        return 1.0
    if decoder.rope_parameters(config).get("rope_type") == "yarn":
        return 0.1 * math.log(scale) + 1.0
    return math.sqrt(1 + math.log(scale) / math.log(original))


def extra_tensors(config: Config) -> Mapping[str, Any]:
    kind = decoder.rope_parameters(config).get("rope_type")
    if kind in (None, "default"):
        return {}
    if kind not in ("su", "longrope", "yarn"):
        raise UnsupportedModel(f"rope scaling {kind!r} is not supported for Phi-3")
    return decoder.rope_factors(config, rotated(config))
