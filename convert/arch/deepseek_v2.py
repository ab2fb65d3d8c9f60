"""DeepSeek-V2 and its Lite: latent attention, experts after the first layers; knows no weights.

Keys and values come out of one low-rank projection. llama.cpp wants its second half split: that
of the keys transposed head by head, so that queries meet the latent vectors themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from convert.arch import decoder, experts, llama
from convert.arch.decoder import BLOCK, LAYER
from convert.arch.table import Row
from convert.config import Config, is_number
from convert.part import Floats, Integers
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("DeepseekV2ForCausalLM",)
GGUF = "deepseek2"
DEFAULTS: Mapping[str, Any] = {
    **llama.DEFAULTS,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "moe_intermediate_size": 1407,
    "first_k_dense_replace": 0,
    "routed_scaling_factor": 1.0,
}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = "deepseek"
LITE_LAYERS = (26, 27)  # by which llama.cpp tells V2-Lite, whose queries have no low rank
YARN_SCALE = 0.1  # what llama.cpp multiplies mscale_all_dim with

extra_tensors = decoder.no_extra_tensors


def rows(config: Config) -> Sequence[Row]:
    first, last = dense_layers(config), config.layers
    mlp, routed = f"{LAYER}.mlp", range(first, last)
    return [
        *decoder.ends(),
        *decoder.norms(decoder.PRE_NORMS),
        *queries(config),
        *keys_and_values(config),
        *(replace(row, layers=range(first)) for row in decoder.mlp()),
        *experts.rows(f"{mlp}.experts", f"{mlp}.gate.weight", layers=routed),
        *experts.shared(f"{mlp}.shared_experts", layers=routed),
    ]


def queries(config: Config) -> list[Row]:
    attention = f"{LAYER}.self_attn"
    if "q_lora_rank" not in config:
        return [Row(f"{attention}.q_proj.weight", f"{BLOCK}.attn_q.weight", ("q", "hidden"))]
    return [
        Row(f"{attention}.q_a_proj.weight", f"{BLOCK}.attn_q_a.weight", ("q_rank", "hidden")),
        Row(f"{attention}.q_a_layernorm.weight", f"{BLOCK}.attn_q_a_norm.weight", ("q_rank",)),
        Row(f"{attention}.q_b_proj.weight", f"{BLOCK}.attn_q_b.weight", ("q", "q_rank")),
    ]


def keys_and_values(config: Config) -> list[Row]:
    attention, source = f"{LAYER}.self_attn", f"{LAYER}.self_attn.kv_b_proj.weight"
    heads, nope, value = (
        config.count(name) for name in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim")
    )
    both = ("kv_b", "kv_rank")
    return [
        Row(
            f"{attention}.kv_a_proj_with_mqa.weight",
            f"{BLOCK}.attn_kv_a_mqa.weight",
            ("kv_a", "hidden"),
        ),
        Row(f"{attention}.kv_a_layernorm.weight", f"{BLOCK}.attn_kv_a_norm.weight", ("kv_rank",)),
        Row(
            source,
            f"{BLOCK}.attn_k_b.weight",
            both,
            map=partial(transposed_keys, heads, nope),
            whole=True,
            shape=("heads", "kv_rank", "nope"),
        ),
        Row(
            source,
            f"{BLOCK}.attn_v_b.weight",
            both,
            pick=partial(value_rows, heads, nope, value),
            shape=("heads", "value", "kv_rank"),
        ),
        Row(f"{attention}.o_proj.weight", f"{BLOCK}.attn_output.weight", ("hidden", "o")),
    ]


def transposed_keys(heads: int, nope: int, both: Floats) -> Floats:
    """The keys' part of [heads * (keys + values), rank], as [heads * rank, keys]."""
    keys = both.reshape(heads, -1, both.shape[-1])[:, :nope]
    return np.ascontiguousarray(keys.swapaxes(1, 2)).reshape(-1, nope)


def value_rows(heads: int, nope: int, value: int) -> Integers:
    """Each head's rows of keys come before those of its values."""
    return np.arange(heads * (nope + value)).reshape(heads, -1)[:, nope:].reshape(-1)


def dense_layers(config: Config) -> int:
    """How many layers have one network instead of experts; they come first."""
    if config.get("moe_layer_freq") not in (None, 1):
        raise UnsupportedModel("moe_layer_freq: llama.cpp knows experts in every later layer only")
    first = config.get("first_k_dense_replace")
    if type(first) is not int or not 0 <= first <= config.layers:
        raise config.bad("first_k_dense_replace", f"0 to {config.layers} layers")
    return first


def check_lite(config: Config) -> None:
    if "q_lora_rank" not in config and config.layers not in LITE_LAYERS:
        low, high = LITE_LAYERS
        raise UnsupportedModel(
            f"config.json has no q_lora_rank, but {config.layers} layers",
            hint=f"llama.cpp knows queries without a low rank in {low} and {high} layers only",
        )


def sizes(config: Config) -> dict[str, int]:
    check_lite(config)
    heads, hidden = config.heads, config.count("hidden_size")
    rank, nope, rope, value = (
        config.count(name)
        for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    )
    config.flag("tie_word_embeddings")
    found = experts.sizes(config, "moe_intermediate_size")
    return found | {
        "layers": config.layers,
        "unused_layers": config.count("num_nextn_predict_layers", config.layers)
        if config.get("num_nextn_predict_layers")
        else 0,
        "vocab": config.count("vocab_size"),
        "hidden": hidden,
        "ff": config.count("intermediate_size"),
        "shared_ff": found["expert_ff"] * config.count("n_shared_experts"),
        "heads": heads,
        "kv_heads": 1,  # all heads share the latent vectors
        "nope": nope,
        "value": value,
        "q": heads * (nope + rope),
        "q_rank": config.count("q_lora_rank") if "q_lora_rank" in config else 0,
        "kv_rank": rank,
        "kv_a": rank + rope,
        "kv_b": heads * (nope + value),
        "o": heads * value,
    }


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    rank, nope, rope = (
        config.count(name) for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")
    )
    yield from decoder.metadata(Config({"num_key_value_heads": 1, "head_dim": None}, config.values))
    yield "attention.key_length", "uint32", rank + rope
    yield "attention.value_length", "uint32", rank
    yield "leading_dense_block_count", "uint32", dense_layers(config)
    yield "vocab_size", "uint32", config.count("vocab_size")
    if "q_lora_rank" in config:
        yield "attention.q_lora_rank", "uint32", config.count("q_lora_rank")
    yield "attention.kv_lora_rank", "uint32", rank
    yield "attention.key_length_mla", "uint32", nope + rope
    yield "attention.value_length_mla", "uint32", config.count("v_head_dim")
    yield "expert_feed_forward_length", "uint32", config.count("moe_intermediate_size")
    yield "expert_shared_count", "uint32", config.count("n_shared_experts")
    yield "expert_weights_scale", "float32", config.number("routed_scaling_factor")
    if config.flag("norm_topk_prob"):
        yield "expert_weights_norm", "bool", True
    yield "rope.dimension_count", "uint32", rope
    scale = decoder.rope_parameters(config).get("mscale_all_dim")
    if scale is not None:
        if not is_number(scale):
            raise config.bad("rope_scaling", "a number as mscale_all_dim")
        yield "rope.scaling.yarn_log_multiplier", "float32", YARN_SCALE * scale
