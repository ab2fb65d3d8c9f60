"""Granite 3: Llama's layout with four multipliers; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, llama
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("GraniteForCausalLM",)
GGUF = "granite"
DEFAULTS: Mapping[str, Any] = {
    **llama.DEFAULTS,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "llama"
SCALES = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}

sizes = llama.sizes
rows = llama.rows
extra_tensors = decoder.no_extra_tensors


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from llama.lengths(Config({"head_dim": None}, config.values))
    for key, target in SCALES.items():
        yield target, "float32", config.number(key)
