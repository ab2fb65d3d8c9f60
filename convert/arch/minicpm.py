"""MiniCPM: Llama's layout with scaled embedding, residuals and output; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, llama
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("MiniCPMForCausalLM",)
GGUF = "minicpm"
DEFAULTS: Mapping[str, Any] = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "minicpm"

sizes = llama.sizes
rows = llama.rows


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    if decoder.has_rope_factors(config):
        yield "rope.scaling.type", "string", "longrope"
        # The factors are tensors: of the scaling nothing is left for other keys.
        config = Config({"rope_scaling": None}, config.values)
    yield from decoder.metadata(config)
    yield "embedding_scale", "float32", config.number("scale_emb")
    yield "residual_scale", "float32", config.number("scale_depth") / config.layers**0.5
    width = config.count("hidden_size") / config.count("dim_model_base")
    yield "logit_scale", "float32", width


def extra_tensors(config: Config) -> Mapping[str, Any]:
    if decoder.has_rope_factors(config):
        return decoder.rope_factors(config, config.head_dim)
    return {}
