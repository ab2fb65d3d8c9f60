"""InternLM3: Llama's layout with a vocabulary of its own; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.arch import decoder, llama

ARCHITECTURES: Sequence[str] = ("InternLM3ForCausalLM",)
GGUF = llama.GGUF
DEFAULTS: Mapping[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "internlm3"

sizes = llama.sizes
rows = llama.rows
metadata = llama.lengths
extra_tensors = llama.extra_tensors
