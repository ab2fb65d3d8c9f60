"""The families that can be converted, found by config.json alone; knows no weights and no files.

A family is a module with the names of `Family`. Its tables say what a checkpoint must hold and
where each tensor goes; anything else in the checkpoint is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from convert.arch import (
    baichuan,
    bert,
    deepseek_v2,
    deepseek_v3,
    gemma2,
    gemma3,
    glm,
    glm4,
    gpt_oss,
    granite,
    internlm2,
    internlm3,
    llama,
    minicpm,
    minicpm3,
    mistral,
    mixtral,
    nomic_bert,
    nomic_bert_moe,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    qwen3_reranker,
    smollm3,
    stablelm,
    xlm_roberta,
)
from convert.arch.table import Family
from convert.config import Config
from convert.original import check_precision
from portable.errors import CheckpointError, UnsupportedModel

FAMILIES: dict[str, Family] = {
    "qwen2": qwen2,
    "qwen3": qwen3,
    "llama": llama,
    "mistral": mistral,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "glm4": glm4,
    "glm": glm,
    "phi3": phi3,
    "internlm2": internlm2,
    "internlm3": internlm3,
    "minicpm": minicpm,
    "minicpm3": minicpm3,
    "baichuan": baichuan,
    "granite": granite,
    "olmo2": olmo2,
    "olmo3": olmo3,
    "smollm3": smollm3,
    "stablelm": stablelm,
    "bert": bert,
    "qwen3_moe": qwen3_moe,
    "qwen2_moe": qwen2_moe,
    "mixtral": mixtral,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "gpt_oss": gpt_oss,
    "nomic_bert": nomic_bert,
    "nomic_bert_moe": nomic_bert_moe,
    "qwen3_reranker": qwen3_reranker,
    "xlm_roberta": xlm_roberta,
}
BY_ARCHITECTURE = {
    architecture: name for name, family in FAMILIES.items() for architecture in family.ARCHITECTURES
}

# A key of config.json that makes another family of the same architecture.
VARIANTS = {"nomic_bert": ("moe_every_n_layers", "nomic_bert_moe")}


def architecture(config: Mapping[str, Any]) -> str:
    """The first string of config.json's `architectures`."""
    found = config.get("architectures")
    if isinstance(found, list) and found and isinstance(found[0], str):
        return found[0]
    raise CheckpointError(
        "config.json names no architecture",
        hint="its `architectures` must be a list such as ['Qwen2ForCausalLM']",
    )


def check_config(
    config: Mapping[str, Any], name: str = "", card: Mapping[str, Any] | None = None
) -> str:
    """The family's name; UnsupportedModel or CheckpointError when it cannot be converted.

    The model's `name` and `card` (README.md's front matter) tell what it was quantized from.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError("config.json is not a JSON object", hint="download it again")
    kind = architecture(config)
    if kind not in BY_ARCHITECTURE:
        near = difflib.get_close_matches(kind, BY_ARCHITECTURE, n=1, cutoff=0.8)
        also = f"; nearest is {near[0]}" if near else ""
        raise UnsupportedModel(
            f"architecture {kind} is not supported{also}",
            hint=f"supported: {', '.join(BY_ARCHITECTURE)}",
        )
    found = BY_ARCHITECTURE[kind]
    key, variant = VARIANTS.get(found, ("", ""))
    found = variant if variant and config.get(key) else found
    check_precision(config, found, name, card)
    family = FAMILIES[found]
    checked = Config(config, family.DEFAULTS)
    family.sizes(checked)
    list(family.metadata(checked))
    return found
