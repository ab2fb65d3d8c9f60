"""Llama 2, Llama 3 and what shares their layout, such as SmolLM2; knows no weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from convert.arch import decoder
from convert.arch.table import Row
from convert.config import Config
from portable.errors import CheckpointError

ARCHITECTURES: Sequence[str] = ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel")
GGUF = "llama"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "llama"


def sizes(config: Config) -> dict[str, int]:
    found = decoder.sizes(config)
    if found["head"] % 2:
        raise config.bad("head_dim", "an even number")
    return found


def rows(config: Config) -> Sequence[Row]:
    return decoder.rows(config, qkv_bias="optional", rotary=True)


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    # transformers fills in LlamaConfig's head_dim, so the converter always writes both lengths.
    return lengths(Config({"head_dim": config.head_dim}, config.values))


def lengths(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.metadata(config)
    yield "vocab_size", "uint32", config.count("vocab_size")
    yield "rope.dimension_count", "uint32", config.head_dim


def extra_tensors(config: Config) -> Mapping[str, Any]:
    """Llama 3's per-frequency rope factors, in float32 step by step as torch computes them."""
    parameters = decoder.rope_parameters(config)
    if parameters.get("rope_type") != "llama3":
        return {}
    factor = parameters.get("factor", 8.0)
    low, high = parameters.get("low_freq_factor", 1.0), parameters.get("high_freq_factor", 4.0)
    length = parameters.get("original_max_position_embeddings", 8192)
    if not (factor > 0 and 0 < low < high and length > 0):
        raise CheckpointError("config.json: rope_scaling is not a llama3 scaling")
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    base = float(parameters.get("rope_theta", 10000.0))
    frequencies = np.float32(1) / np.power(base, exponents.astype(np.float64)).astype(np.float32)
    # torch turns number / tensor into reciprocal(tensor) * number, which rounds twice.
    wave = np.float32(1) / frequencies * np.float32(2 * math.pi)
    smooth = (np.float32(1) / wave * np.float32(length) - np.float32(low)) / np.float32(high - low)
    mixed = 1 / ((1 - smooth) / np.float32(factor) + smooth)
    factors = np.where(wave > length / low, np.float32(factor), mixed)
    factors = np.where(wave < length / high, np.float32(1), factors)
    return {"rope_freqs.weight": factors.astype(np.float32)}
