"""Gemma 2: norms before and after each part, whose weights are stored less one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from convert.arch import decoder
from convert.arch.table import Row
from convert.config import Config
from convert.part import Floats
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("Gemma2ForCausalLM",)
GGUF = "gemma2"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
# llama.cpp always takes the embedding for the output.
SKIP = rf"{decoder.SKIP}|lm_head\.weight"
VOCAB = "gemma"
NORMS = (
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
)

sizes = decoder.sizes
extra_tensors = decoder.no_extra_tensors


def plus_one(values: Floats) -> Floats:
    return values + np.float32(1)


def check_scale(config: Config, largest: int) -> None:
    """The scale of attention has no key: llama.cpp tells the largest model by its layers."""
    wide = config.layers == largest
    wanted = config.count("hidden_size") // config.heads if wide else config.head_dim
    if config.number("query_pre_attn_scalar") != wanted:
        raise UnsupportedModel(
            f"llama.cpp runs this Gemma with a query_pre_attn_scalar of {wanted}"
        )


def rows(config: Config) -> Sequence[Row]:
    norms = decoder.norms(NORMS, map=plus_one)
    return [*decoder.ends(plus_one), *norms, *decoder.attention(config), *decoder.mlp()]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    decoder.check_pattern(config, period=2)
    check_scale(config, largest=46)
    yield from decoder.shape(config)
    yield "attention.layer_norm_rms_epsilon", "float32", config.number("rms_norm_eps")
    yield from decoder.head_lengths(config)
    yield "attn_logit_softcapping", "float32", config.number("attn_logit_softcapping")
    yield "final_logit_softcapping", "float32", config.number("final_logit_softcapping")
    yield "attention.sliding_window", "uint32", config.count("sliding_window")
    yield from decoder.unusual_rope(config)
