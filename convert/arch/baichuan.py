"""Baichuan and Baichuan2: queries, keys and values in one matrix; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from convert.arch import decoder, llama
from convert.arch.decoder import BLOCK, LAYER
from convert.arch.table import Row, linear, rotary_order
from convert.config import Config
from convert.part import Floats, Integers

ARCHITECTURES: Sequence[str] = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
GGUF = "baichuan"
DEFAULTS: Mapping[str, Any] = {"rms_norm_eps": 1e-6}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "baichuan"
# Baichuan2's own code divides each row of its output matrix by its length before it is used, which
# llama.cpp does not do; this size is how that code's authors tell it from the first Baichuan.
BAICHUAN2 = 125696

extra_tensors = decoder.no_extra_tensors
sizes = llama.sizes


def rows(config: Config) -> Sequence[Row]:
    fused = f"{LAYER}.self_attn.W_pack.weight"
    packed = [
        Row(fused, f"{BLOCK}.attn_{name}.weight", ("qkv", "hidden"), pick=partial(pick, config, i))
        for i, name in enumerate("qkv")
    ]
    ends = decoder.ends()
    if config.count("vocab_size") == BAICHUAN2:
        ends[-1] = replace(ends[-1], map=unit_length)
    return [
        *ends,
        *decoder.norms(decoder.PRE_NORMS),
        *packed,
        *linear(f"{LAYER}.self_attn.o_proj", f"{BLOCK}.attn_output", ("hidden", "q")),
        *decoder.mlp(),
    ]


def pick(config: Config, third: int) -> Integers:
    """Queries are the first third of the rows, then keys, then values, which are not rotated."""
    width = config.heads * config.head_dim
    rows = np.arange(width) if third == 2 else rotary_order(width, config.heads)
    return third * width + rows


def unit_length(values: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.sum(values * values, axis=1, keepdims=True))
    return np.divide(values, np.maximum(lengths, np.float32(1e-12)))


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    longest = "max_position_embeddings"
    if longest not in config:
        config = Config({longest: config.count("model_max_length")}, config.values)
    unset = "num_key_value_heads" not in config
    for entry in decoder.metadata(config):
        if not (unset and entry[0] == "attention.head_count_kv"):
            yield entry
    yield "tensor_data_layout", "string", "Meta AI original pth"
    yield "rope.dimension_count", "uint32", config.head_dim
