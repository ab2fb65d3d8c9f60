"""Mixtral: Mistral's attention, and experts instead of one network; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.arch import decoder, experts, llama, mistral
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("MixtralForCausalLM",)
GGUF = llama.GGUF
DEFAULTS: Mapping[str, Any] = {
    **mistral.DEFAULTS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = llama.VOCAB

metadata = llama.lengths
extra_tensors = llama.extra_tensors


def rows(config: Config) -> Sequence[Row]:
    mixture = f"{decoder.LAYER}.block_sparse_moe"
    return [
        *experts.without_mlp(llama.rows(config)),
        *experts.rows(f"{mixture}.experts", f"{mixture}.gate.weight", ("w1", "w3", "w2")),
    ]


def sizes(config: Config) -> dict[str, int]:
    return llama.sizes(config) | experts.sizes(config, "intermediate_size")
