"""Gemma 3, and the text part of those that see; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, gemma2
from convert.arch.table import Row
from convert.config import Config
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
GGUF = "gemma3"
DEFAULTS: Mapping[str, Any] = {
    **gemma2.DEFAULTS,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
RENAMED: Sequence[tuple[str, str]] = (
    *decoder.RENAMED,
    (r"^(model\.)?language_model\.(model\.)?(?!lm_head)", "model."),
    (r"^language_model\.lm_head", "lm_head"),
)
SKIP = rf"{decoder.SKIP}|(model\.)?(vision_tower|multi_modal_projector)\..*"
VOCAB = "gemma"

sizes = decoder.sizes
extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    norms = decoder.norms(gemma2.NORMS, map=gemma2.plus_one)
    norms += decoder.norms(decoder.HEAD_NORMS, "head", map=gemma2.plus_one)
    ends = decoder.ends(gemma2.plus_one)
    return [*ends, *norms, *decoder.attention(config), *decoder.mlp()]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    decoder.check_pattern(config, period=6)
    gemma2.check_scale(config, largest=62)
    if "attn_logit_softcapping" in config:
        raise UnsupportedModel("Gemma 3 with attn_logit_softcapping is not supported")
    yield from decoder.metadata(config)
    yield "rope.freq_base_swa", "float32", config.number("rope_local_base_freq")
    if "final_logit_softcapping" in config:
        yield "final_logit_softcapping", "float32", config.number("final_logit_softcapping")
    yield "attention.sliding_window", "uint32", config.count("sliding_window")
