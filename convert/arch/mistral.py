"""Mistral 7B's layout, which is Llama's under its own defaults; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.arch import decoder, llama

ARCHITECTURES: Sequence[str] = ("MistralForCausalLM",)
GGUF = llama.GGUF
DEFAULTS: Mapping[str, Any] = {
    **llama.DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = llama.VOCAB

sizes = llama.sizes
rows = llama.rows
metadata = llama.lengths
extra_tensors = llama.extra_tensors
