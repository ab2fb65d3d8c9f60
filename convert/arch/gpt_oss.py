"""gpt-oss: experts in 4-bit floats, attention with sinks; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from convert.arch import decoder, experts
from convert.arch.decoder import BLOCK, LAYER
from convert.arch.table import Row, linear
from convert.config import Config
from convert.part import Floats, Integers

ARCHITECTURES: Sequence[str] = ("GptOssForCausalLM",)
GGUF = "gpt-oss"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "gpt-oss"
NORMS = (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm"))
SOURCE = f"{LAYER}.mlp.experts"

extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    attention, router = f"{LAYER}.self_attn", f"{LAYER}.mlp.router"
    return [
        *decoder.ends(),
        *decoder.norms(NORMS),
        *decoder.attention(config, "required", loose="required"),
        Row(f"{attention}.sinks", f"{BLOCK}.attn_sinks.weight", ("heads",)),
        *linear(router, f"{BLOCK}.ffn_gate_inp", ("experts", "hidden"), "required"),
        *(kept(config) if "quantization_config" in config else transposed()),
        Row(f"{SOURCE}.down_proj_bias", f"{BLOCK}.ffn_down_exps.bias", ("experts", "hidden")),
        *(half_of_bias(kind, first) for kind, first in HALVES),
    ]


# In a fused tensor the gate's and the other rows take turns; the gate's come first.
HALVES = (("gate", 0), ("up", 1))


def kept(config: Config) -> list[Row]:
    """4-bit blocks, all experts in one tensor."""
    down = ("experts", "hidden", "expert_ff")
    all_rows = experts.count(config) * 2 * config.count("intermediate_size")
    return [Row(f"{SOURCE}.down_proj", f"{BLOCK}.ffn_down_exps.weight", down)] + [
        Row(
            f"{SOURCE}.gate_up_proj",
            f"{BLOCK}.ffn_{kind}_exps.weight",
            ("experts", "gate_up", "hidden"),
            pick=partial(every_second, all_rows, first),
            shape=("experts", "expert_ff", "hidden"),
        )
        for kind, first in HALVES
    ]


def transposed() -> list[Row]:
    """Plain numbers, whose rows are columns to llama.cpp; expert by expert."""
    return [
        Row(
            f"{SOURCE}.{{e}}.down_proj",
            f"{BLOCK}.ffn_down_exps.weight",
            ("expert_ff", "hidden"),
            map=np.transpose,
            whole=True,
            shape=("hidden", "expert_ff"),
        )
    ] + [
        Row(
            f"{SOURCE}.{{e}}.gate_up_proj",
            f"{BLOCK}.ffn_{kind}_exps.weight",
            ("hidden", "gate_up"),
            map=partial(half_transposed, first),
            whole=True,
            shape=("expert_ff", "hidden"),
        )
        for kind, first in HALVES
    ]


def half_of_bias(kind: str, first: int) -> Row:
    return Row(
        f"{SOURCE}.gate_up_proj_bias",
        f"{BLOCK}.ffn_{kind}_exps.bias",
        ("experts", "gate_up"),
        map=partial(half, first),
        shape=("experts", "expert_ff"),
    )


def every_second(rows: int, first: int) -> Integers:
    return np.arange(first, rows, 2)


def half(first: int, values: Floats) -> Floats:
    return values[:, first::2]


def half_transposed(first: int, values: Floats) -> Floats:
    return half(first, values).T


def sizes(config: Config) -> dict[str, int]:
    return decoder.sizes(config) | experts.sizes(config, "intermediate_size")


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    decoder.check_pattern(config, 2)
    yield from decoder.metadata(config)
    yield "attention.sliding_window", "uint32", config.count("sliding_window")
    yield "expert_feed_forward_length", "uint32", config.count("intermediate_size")
