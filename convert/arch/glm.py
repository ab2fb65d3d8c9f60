"""GLM-4 of 2024 as transformers has it (glm-4-9b-chat-hf, GLM-Edge's layout): plain pre-norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, glm4
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("GlmForCausalLM",)
GGUF = "chatglm"
DEFAULTS: Mapping[str, Any] = glm4.DEFAULTS
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "chatglm"

sizes = decoder.sizes
extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    return [
        *decoder.ends(),
        *decoder.norms(decoder.PRE_NORMS),
        *decoder.attention(config, bias="optional"),
        *decoder.fused_mlp(),
    ]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    """As config.json says: llama.cpp's converter looks for ChatGLM's older keys and finds none."""
    yield from decoder.shape(config)
    yield "attention.layer_norm_rms_epsilon", "float32", config.number("rms_norm_eps")
    yield glm4.rope_dimensions(config)
    yield "rope.freq_base", "float32", config.number("rope_theta")
