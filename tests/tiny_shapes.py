"""config.json and tensor shapes of the tiny random checkpoints, family by family."""

from __future__ import annotations

from typing import Any

from tiny_encoders import ENCODERS
from tiny_experts import EXPERTS, expert_shapes
from tiny_families import QKV_BIAS, TINY

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
}
DECODER = {
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def tiny_config(family: str, vocab: int) -> dict[str, Any]:
    if family == "bert":
        own = {"architectures": ["BertModel"], "layer_norm_eps": 1e-12, "type_vocab_size": 2}
        return {"model_type": "bert", "vocab_size": vocab, **COMMON, **own, "hidden_act": "gelu"}
    if family in ENCODERS:
        return {**ENCODERS[family][0], "vocab_size": vocab, "torch_dtype": "bfloat16"}
    if family in EXPERTS:
        own = {"model_type": family, "vocab_size": vocab, **EXPERTS[family][0]}
        return {**COMMON, **DECODER, **own}
    tiny = TINY[family]
    named = {"architectures": [tiny.architecture], "model_type": family, "vocab_size": vocab}
    return {**named, **COMMON, **DECODER, **tiny.config}


def tiny_shapes(family: str, config: dict[str, Any], head: bool | None) -> dict[str, Any]:
    """Shapes by name; `head` says whether there is an output matrix where config.json does not."""
    if family == "bert":
        return _bert_shapes(config)
    if family in ENCODERS:
        return ENCODERS[family][1](config)
    if family in EXPERTS:
        return expert_shapes(family, config)
    tiny, sizes = TINY[family], _sizes(config)
    layer = tiny.layer | (QKV_BIAS if config.get("attention_bias") else {})
    for norm, count in tiny.head_norms.items():
        layer |= {f"{norm}.{e}.weight": "head" for e in range(config[count])}
    found = {tiny.embedding: "vocab hidden"}
    for i in range(config["num_hidden_layers"]):
        found |= {f"{tiny.layers}.{i}.{name}": dims for name, dims in layer.items()}
    found |= tiny.ends
    if head if head is not None else not config["tie_word_embeddings"]:
        found[tiny.head] = "vocab hidden"
    return {name: tuple(sizes[dim] for dim in dims.split()) for name, dims in found.items()}


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    hidden, ff, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads = config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"] or heads
    head = config.get("head_dim") or hidden // heads
    q, kv = heads * head, kv_heads * head
    sizes = {"hidden": hidden, "ff": ff, "two_ff": 2 * ff, "vocab": vocab, "head": head}
    sizes |= {"q": q, "kv": kv, "qkv": q + 2 * kv}
    if "kv_lora_rank" in config:
        rank, plain = config["kv_lora_rank"], config["qk_nope_head_dim"]
        turned = config["qk_rope_head_dim"]
        sizes |= {"q_rank": config["q_lora_rank"], "kv_rank": rank, "kv_a": rank + turned}
        sizes |= {"q_b": heads * (plain + turned), "kv_b": heads * (plain + head)}
    return sizes


def _bert_shapes(config: dict[str, Any]) -> dict[str, Any]:
    hidden, ff = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, Any] = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        "bert.embeddings.LayerNorm.gamma": (hidden,),
        "bert.embeddings.LayerNorm.beta": (hidden,),
        "bert.pooler.dense.weight": (hidden, hidden),
        "bert.pooler.dense.bias": (hidden,),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}."
        linear = {f"attention.self.{n}": (hidden, hidden) for n in ("query", "key", "value")}
        linear |= {"attention.output.dense": (hidden, hidden)}
        linear |= {"intermediate.dense": (ff, hidden), "output.dense": (hidden, ff)}
        for name, shape in linear.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{name}.weight": (hidden,), f"{layer}{name}.bias": (hidden,)}
    return shapes
