"""What the decoder families share: the tensor table, sizes and keys of a pre-norm transformer.

It knows no single family: each module beside it says what is different.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from convert.arch import experts
from convert.arch.table import Row, linear, rotary_order
from convert.config import Config, is_number
from convert.part import Map
from portable.errors import CheckpointError, UnsupportedModel

SKIP = r".*\.(attention\.masked_bias|attention\.bias|rotary_emb\.inv_freq)"
# A bare `Qwen2Model` names its tensors without the `model.` of `Qwen2ForCausalLM`.
RENAMED = ((r"^(?=(layers|embed_tokens|norm)\.)", "model."),)
LAYER, BLOCK = "model.layers.{i}", "blk.{i}"


# What comes before attention and before the feed-forward part, in most families.
PRE_NORMS = (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"))
HEAD_NORMS = (("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"))


def rows(
    config: Config, qkv_bias: str, rotary: bool = False, head_norms: bool = False
) -> list[Row]:
    """`qkv_bias` is "", "optional" or "required"; `rotary` for llama's order of query rows."""
    loose = "optional" if qkv_bias != "required" else ""
    found = [*ends(), *norms(PRE_NORMS), *attention(config, qkv_bias, rotary, loose), *mlp(loose)]
    return found + norms(HEAD_NORMS, "head") if head_norms else found


def ends(norm: Map | None = None) -> list[Row]:
    """Embedding, last norm (`norm` maps its values) and the output matrix of an untied model."""
    return [
        Row("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
        Row("model.norm.weight", "output_norm.weight", ("hidden",), map=norm),
        Row("lm_head.weight", "output.weight", ("vocab", "hidden"), optional=True),
    ]


def norms(
    names: Iterable[tuple[str, str]], size: str = "hidden", map: Map | None = None
) -> list[Row]:
    """A layer's norms; (source, target) of each."""
    return [
        Row(f"{LAYER}.{source}.weight", f"{BLOCK}.{target}.weight", (size,), map=map)
        for source, target in names
    ]


def attention(config: Config, bias: str = "", rotary: bool = False, loose: str = "") -> list[Row]:
    """Separate projections; `bias` is that of queries, keys and values, `loose` of the output."""
    source, turn_q, turn_k = f"{LAYER}.self_attn", None, None
    if rotary:
        turn_q = partial(rotary_order, config.heads * config.head_dim, config.heads)
        turn_k = partial(rotary_order, config.kv_heads * config.head_dim, config.kv_heads)
    return [
        *linear(f"{source}.q_proj", f"{BLOCK}.attn_q", ("q", "hidden"), bias, turn_q),
        *linear(f"{source}.k_proj", f"{BLOCK}.attn_k", ("kv", "hidden"), bias, turn_k),
        *linear(f"{source}.v_proj", f"{BLOCK}.attn_v", ("kv", "hidden"), bias),
        *linear(f"{source}.o_proj", f"{BLOCK}.attn_output", ("hidden", "q"), loose),
    ]


def mlp(loose: str = "") -> list[Row]:
    """A gated feed-forward part; `loose` is its bias."""
    source = f"{LAYER}.mlp"
    return [
        *linear(f"{source}.gate_proj", f"{BLOCK}.ffn_gate", ("ff", "hidden"), loose),
        *linear(f"{source}.up_proj", f"{BLOCK}.ffn_up", ("ff", "hidden"), loose),
        *linear(f"{source}.down_proj", f"{BLOCK}.ffn_down", ("hidden", "ff"), loose),
    ]


def fused_mlp() -> list[Row]:
    """The same with gate and up in one matrix, which llama.cpp splits itself."""
    return [
        *linear(f"{LAYER}.mlp.gate_up_proj", f"{BLOCK}.ffn_up", ("gate_up", "hidden")),
        *linear(f"{LAYER}.mlp.down_proj", f"{BLOCK}.ffn_down", ("hidden", "ff")),
    ]


def sizes(config: Config) -> dict[str, int]:
    """What the names in `rows` measure."""
    head, ff = config.head_dim, config.count("intermediate_size")
    q, kv = config.heads * head, config.kv_heads * head
    config.flag("tie_word_embeddings")
    return {
        "layers": config.layers,
        "vocab": config.count("vocab_size"),
        "hidden": config.count("hidden_size"),
        "ff": ff,
        "gate_up": 2 * ff,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head": head,
        "q": q,
        "kv": kv,
        "qkv": q + 2 * kv,
    }


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    """(key after the architecture's name, kind, value), in llama.cpp's order."""
    yield from shape(config)
    yield from rope(config)
    yield "attention.layer_norm_rms_epsilon", "float32", config.number("rms_norm_eps")
    yield from experts.metadata(config)
    if "head_dim" in config:
        yield from head_lengths(config)


def shape(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield "block_count", "uint32", config.layers
    yield "context_length", "uint32", config.count("max_position_embeddings")
    yield "embedding_length", "uint32", config.count("hidden_size")
    yield "feed_forward_length", "uint32", config.count("intermediate_size")
    yield "attention.head_count", "uint32", config.heads
    yield "attention.head_count_kv", "uint32", config.kv_heads


def head_lengths(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield "attention.key_length", "uint32", config.head_dim
    yield "attention.value_length", "uint32", config.head_dim


def rope_parameters(config: Config) -> dict[str, Any]:
    """`rope_parameters`, or `rope_scaling` with the older keys mirrored into it."""
    key = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise config.bad(key, "an object or null")
    # Newer files have one for each kind of layer; the keys without a suffix are the full ones'.
    found = found.get("full_attention", found)
    if not isinstance(found, dict):
        raise config.bad(key, "an object for full_attention")
    parameters = dict(found)
    if "rope_type" not in parameters and "type" in parameters:
        parameters["rope_type"] = parameters["type"]
    for name in ("rope_theta", "original_max_position_embeddings"):
        if name not in parameters and name in config:
            parameters[name] = config.get(name)
    for name, value in parameters.items():
        numeric = name.endswith(NUMERIC) and name not in LISTS
        if numeric and not is_number(value):
            raise CheckpointError(f"config.json: {key}.{name} is {value!r:.60}, expected a number")
    return parameters


LISTS = ("long_factor", "short_factor")
NUMERIC = ("factor", "theta", "embeddings", "beta_fast", "beta_slow")
YARN = (
    ("yarn_ext_factor", ("extrapolation_factor",)),
    ("yarn_attn_factor", ("attention_factor", "attn_factor")),
    ("yarn_beta_fast", ("beta_fast",)),
    ("yarn_beta_slow", ("beta_slow",)),
)


def rope(config: Config) -> Iterable[tuple[str, str, Any]]:
    parameters = rope_parameters(config)
    kind = parameters.get("rope_type")
    if kind is not None and kind not in ("default", "linear", "yarn", "llama3", "dynamic"):
        raise UnsupportedModel(f"rope scaling {kind!r} is not supported")
    if kind in ("linear", "yarn") and "factor" in parameters:
        yield "rope.scaling.type", "string", kind
        yield "rope.scaling.factor", "float32", float(parameters["factor"])
    if kind == "yarn" and "factor" in parameters:
        original = parameters.get("original_max_position_embeddings")
        if type(original) is not int:
            raise config.bad("rope_scaling", "original_max_position_embeddings for yarn")
        yield "rope.scaling.original_context_length", "uint32", original
        for target, names in YARN:
            value = next((parameters[name] for name in names if name in parameters), None)
            if value is not None:
                yield f"rope.scaling.{target}", "float32", float(value)
    theta = parameters.get("rope_theta")
    if theta is not None:
        if not theta > 0:
            raise config.bad("rope_theta", "a number above 0")
        yield "rope.freq_base", "float32", float(theta)


def unusual_rope(config: Config) -> Iterable[tuple[str, str, Any]]:
    """`rope` for families where the usual base is not written: llama.cpp assumes it."""
    return (entry for entry in rope(config) if entry[::2] != ("rope.freq_base", 10000.0))


def check_pattern(config: Config, period: int) -> None:
    """Full attention in each `period`-th layer: llama.cpp knows no other pattern for the family."""
    kinds = ("full_attention", "sliding_attention")
    wanted = [kinds[(i + 1) % period != 0] for i in range(config.layers)]
    told = config.get("layer_types")
    if told not in (None, wanted) or config.get("sliding_window_pattern") not in (None, period):
        raise UnsupportedModel(
            "layer_types or sliding_window_pattern is not the pattern that llama.cpp assumes: "
            f"full attention in every {period}th layer"
        )


def has_rope_factors(config: Config) -> bool:
    """Whether the rope is scaled by longrope; other scalings are `rope`'s."""
    return rope_parameters(config).get("rope_type") in ("su", "longrope")


def rope_factors(config: Config, rotated: int) -> Mapping[str, Any]:
    """The two tensors of longrope: a factor for each pair of `rotated` values of a head."""
    parameters, found = rope_parameters(config), {}
    for kind in ("long", "short"):
        factors = parameters.get(f"{kind}_factor")
        if not isinstance(factors, list) or len(factors) != rotated // 2:
            raise config.bad("rope_scaling", f"{rotated // 2} numbers as {kind}_factor")
        if not all(map(is_number, factors)):
            raise config.bad("rope_scaling", f"only numbers in {kind}_factor")
        found[f"rope_factors_{kind}.weight"] = np.array(factors, np.float32)
    return found


def no_extra_tensors(config: Config) -> Mapping[str, Any]:
    """Most families have no tensor that is not in the checkpoint."""
    return {}
