"""MiniCPM3: queries, keys and values through narrow matrices (MLA); knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder
from convert.arch.decoder import BLOCK, LAYER
from convert.arch.table import Row, linear
from convert.config import Config
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("MiniCPM3ForCausalLM",)
GGUF = "minicpm3"
DEFAULTS: Mapping[str, Any] = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "minicpm"
# llama.cpp has these in its code and no keys for them.
FIXED = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256, "rope_theta": 10000}


def sizes(config: Config) -> dict[str, int]:
    found = decoder.sizes(config)
    plain, turned = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    kv_rank, heads = config.count("kv_lora_rank"), config.heads
    return found | {
        "q_rank": config.count("q_lora_rank"),
        "kv_rank": kv_rank,
        "kv_a": kv_rank + turned,
        "q_b": heads * (plain + turned),
        "kv_b": heads * (plain + found["head"]),
    }


def rows(config: Config) -> Sequence[Row]:
    source = f"{LAYER}.self_attn"
    ranks = (("self_attn.q_a_layernorm", "attn_q_a_norm"),)
    kv_ranks = (("self_attn.kv_a_layernorm", "attn_kv_a_norm"),)
    return [
        *decoder.ends(),
        *decoder.norms(decoder.PRE_NORMS),
        *decoder.norms(ranks, "q_rank"),
        *decoder.norms(kv_ranks, "kv_rank"),
        *linear(f"{source}.q_a_proj", f"{BLOCK}.attn_q_a", ("q_rank", "hidden")),
        *linear(f"{source}.q_b_proj", f"{BLOCK}.attn_q_b", ("q_b", "q_rank")),
        *linear(f"{source}.kv_a_proj_with_mqa", f"{BLOCK}.attn_kv_a_mqa", ("kv_a", "hidden")),
        *linear(f"{source}.kv_b_proj", f"{BLOCK}.attn_kv_b", ("kv_b", "kv_rank")),
        *linear(f"{source}.o_proj", f"{BLOCK}.attn_output", ("hidden", "q")),
        *decoder.mlp(),
    ]


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    for key, value in FIXED.items():
        if config.number(key) != value:
            raise UnsupportedModel(f"llama.cpp runs MiniCPM3 with a {key} of {value} only")
    yield from decoder.shape(config)
    yield "attention.layer_norm_rms_epsilon", "float32", config.number("rms_norm_eps")
    yield "vocab_size", "uint32", config.count("vocab_size")
    yield "attention.q_lora_rank", "uint32", config.count("q_lora_rank")
    yield "attention.kv_lora_rank", "uint32", config.count("kv_lora_rank")
    turned = config.count("qk_rope_head_dim")
    yield "attention.key_length", "uint32", config.count("qk_nope_head_dim") + turned
    yield "rope.dimension_count", "uint32", turned


def extra_tensors(config: Config) -> Mapping[str, Any]:
    if decoder.has_rope_factors(config):
        return decoder.rope_factors(config, config.count("qk_rope_head_dim"))
    return {}
