"""What the decoder families share: the tensor table, sizes and keys of a pre-norm transformer.

It knows no single family: each module beside it says what is different.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from convert.arch import experts
from convert.arch.table import Row, linear, rotary_order
from convert.config import Config, is_number
from portable.errors import CheckpointError, UnsupportedModel

SKIP = r".*\.(attention\.masked_bias|attention\.bias|rotary_emb\.inv_freq)"
# A bare `Qwen2Model` names its tensors without the `model.` of `Qwen2ForCausalLM`.
RENAMED = ((r"^(?=(layers|embed_tokens|norm)\.)", "model."),)
LAYER, BLOCK = "model.layers.{i}", "blk.{i}"


def rows(
    config: Config, qkv_bias: str, rotary: bool = False, head_norms: bool = False
) -> list[Row]:
    """`qkv_bias` is "", "optional" or "required"; `rotary` for llama's order of query rows."""
    attention, mlp = f"{LAYER}.self_attn", f"{LAYER}.mlp"
    turn_q, turn_k = None, None
    if rotary:
        turn_q = partial(rotary_order, config.heads * config.head_dim, config.heads)
        turn_k = partial(rotary_order, config.kv_heads * config.head_dim, config.kv_heads)
    loose = "optional" if qkv_bias != "required" else ""
    found = [
        Row("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
        Row("model.norm.weight", "output_norm.weight", ("hidden",)),
        Row("lm_head.weight", "output.weight", ("vocab", "hidden"), optional=True),
        Row(f"{LAYER}.input_layernorm.weight", f"{BLOCK}.attn_norm.weight", ("hidden",)),
        Row(f"{LAYER}.post_attention_layernorm.weight", f"{BLOCK}.ffn_norm.weight", ("hidden",)),
        *linear(f"{attention}.q_proj", f"{BLOCK}.attn_q", ("q", "hidden"), qkv_bias, turn_q),
        *linear(f"{attention}.k_proj", f"{BLOCK}.attn_k", ("kv", "hidden"), qkv_bias, turn_k),
        *linear(f"{attention}.v_proj", f"{BLOCK}.attn_v", ("kv", "hidden"), qkv_bias),
        *linear(f"{attention}.o_proj", f"{BLOCK}.attn_output", ("hidden", "q"), loose),
        *linear(f"{mlp}.gate_proj", f"{BLOCK}.ffn_gate", ("ff", "hidden"), loose),
        *linear(f"{mlp}.up_proj", f"{BLOCK}.ffn_up", ("ff", "hidden"), loose),
        *linear(f"{mlp}.down_proj", f"{BLOCK}.ffn_down", ("hidden", "ff"), loose),
    ]
    if head_norms:
        norms = (("q_norm", "attn_q_norm"), ("k_norm", "attn_k_norm"))
        found += [
            Row(f"{attention}.{source}.weight", f"{BLOCK}.{target}.weight", ("head",))
            for source, target in norms
        ]
    return found


def sizes(config: Config) -> dict[str, int]:
    """What the names in `rows` measure."""
    head = config.head_dim
    config.flag("tie_word_embeddings")
    return {
        "layers": config.layers,
        "vocab": config.count("vocab_size"),
        "hidden": config.count("hidden_size"),
        "ff": config.count("intermediate_size"),
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head": head,
        "q": config.heads * head,
        "kv": config.kv_heads * head,
    }


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    """(key after the architecture's name, kind, value), in llama.cpp's order."""
    yield "block_count", "uint32", config.layers
    yield "context_length", "uint32", config.count("max_position_embeddings")
    yield "embedding_length", "uint32", config.count("hidden_size")
    yield "feed_forward_length", "uint32", config.count("intermediate_size")
    yield "attention.head_count", "uint32", config.heads
    yield "attention.head_count_kv", "uint32", config.kv_heads
    yield from rope(config)
    yield "attention.layer_norm_rms_epsilon", "float32", config.number("rms_norm_eps")
    yield from experts.metadata(config)
    if "head_dim" in config:
        yield "attention.key_length", "uint32", config.head_dim
        yield "attention.value_length", "uint32", config.head_dim


def rope_parameters(config: Config) -> dict[str, Any]:
    """`rope_parameters`, or `rope_scaling` with the older keys mirrored into it."""
    key = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise config.bad(key, "an object or null")
    parameters = dict(found)
    if "rope_type" not in parameters and "type" in parameters:
        parameters["rope_type"] = parameters["type"]
    for name in ("rope_theta", "original_max_position_embeddings"):
        if name not in parameters and name in config:
            parameters[name] = config.get(name)
    for name, value in parameters.items():
        if name != "mscale_all_dim" and name.endswith(NUMERIC) and not is_number(value):
            raise CheckpointError(f"config.json: {key}.{name} is {value!r:.60}, expected a number")
    return parameters


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


def no_extra_tensors(config: Config) -> Mapping[str, Any]:
    """Most families have no tensor that is not in the checkpoint."""
    return {}
