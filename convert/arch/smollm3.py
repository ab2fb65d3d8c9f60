"""SmolLM3: Llama's layout, in which every fourth layer is not rotated; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, llama
from convert.config import Config
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("SmolLM3ForCausalLM",)
GGUF = "smollm3"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 2000000.0,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "llama"
STEP = 4

sizes = llama.sizes
rows = llama.rows
extra_tensors = llama.extra_tensors


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    """The layers without rotation have no key: llama.cpp knows only the published pattern."""
    wanted = [int((i + 1) % STEP != 0) for i in range(config.layers)]
    told = config.get("no_rope_layers")
    if told is None:
        step = config.count("no_rope_layer_interval")
        told = [int((i + 1) % step != 0) for i in range(config.layers)]
    if told != wanted:
        raise UnsupportedModel(f"no_rope_layers is not every {STEP}th layer, as llama.cpp assumes")
    yield from llama.lengths(config)
