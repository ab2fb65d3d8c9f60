"""config.json and tensor shapes of the tiny random checkpoints, family by family."""

from __future__ import annotations

from typing import Any

FAMILIES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "bert": "BertModel",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def tiny_config(family: str, vocab: int) -> dict[str, Any]:
    common = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "vocab_size": vocab,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
    }
    if family == "bert":
        return common | {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "hidden_act": "gelu"}
    common |= {
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": family in ("qwen2", "qwen3"),
        "bos_token_id": 0 if family != "mistral" else 1,
        "eos_token_id": 2,
    }
    if family == "qwen3":
        common |= {"head_dim": 32, "attention_bias": False}
    if family == "llama":
        common |= {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "head_dim": 16}
    return common


def tiny_shapes(family: str, config: dict[str, Any], head: bool | None) -> dict[str, Any]:
    if family == "bert":
        return _bert_shapes(config)
    hidden, ff, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or hidden // heads
    shapes: dict[str, Any] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        attention = f"{layer}self_attn."
        shapes |= {
            f"{layer}input_layernorm.weight": (hidden,),
            f"{layer}post_attention_layernorm.weight": (hidden,),
            f"{attention}q_proj.weight": (heads * width, hidden),
            f"{attention}k_proj.weight": (kv_heads * width, hidden),
            f"{attention}v_proj.weight": (kv_heads * width, hidden),
            f"{attention}o_proj.weight": (hidden, heads * width),
            f"{layer}mlp.gate_proj.weight": (ff, hidden),
            f"{layer}mlp.up_proj.weight": (ff, hidden),
            f"{layer}mlp.down_proj.weight": (hidden, ff),
        }
        if family == "qwen2" or config.get("attention_bias"):
            shapes[f"{attention}q_proj.bias"] = (heads * width,)
            shapes[f"{attention}k_proj.bias"] = (kv_heads * width,)
            shapes[f"{attention}v_proj.bias"] = (kv_heads * width,)
        if family == "qwen3":
            shapes |= {f"{attention}{n}_norm.weight": (width,) for n in "qk"}
    shapes["model.norm.weight"] = (hidden,)
    if head if head is not None else not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


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
