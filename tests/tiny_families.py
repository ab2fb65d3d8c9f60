"""The tiny decoders as tables: config.json, a layer's tensors, and which tokenizer each has.

Names and shapes are those that transformers, or the publisher's own code, would save.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NORMS = {"input_layernorm.weight": "hidden", "post_attention_layernorm.weight": "hidden"}
QKV = {
    "self_attn.q_proj.weight": "q hidden",
    "self_attn.k_proj.weight": "kv hidden",
    "self_attn.v_proj.weight": "kv hidden",
}
QKV_BIAS = {
    "self_attn.q_proj.bias": "q",
    "self_attn.k_proj.bias": "kv",
    "self_attn.v_proj.bias": "kv",
}
OUT = {"self_attn.o_proj.weight": "hidden q"}
MLP = {
    "mlp.gate_proj.weight": "ff hidden",
    "mlp.up_proj.weight": "ff hidden",
    "mlp.down_proj.weight": "hidden ff",
}
FUSED_MLP = {"mlp.gate_up_proj.weight": "two_ff hidden", "mlp.down_proj.weight": "hidden ff"}
SANDWICH = {
    "pre_feedforward_layernorm.weight": "hidden",
    "post_feedforward_layernorm.weight": "hidden",
}
LLAMA = NORMS | QKV | OUT | MLP
# A different number in each place, so that a mix-up shows.
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5],
}


@dataclass(frozen=True)
class Tiny:
    """`config` over what all decoders share, a `layer`'s tensors with the names of their sizes."""

    architecture: str
    config: dict[str, Any]
    layer: dict[str, str]
    splitter: str = "spm"
    embedding: str = "model.embed_tokens.weight"
    head: str = "lm_head.weight"
    layers: str = "model.layers"
    ends: dict[str, str] = field(default_factory=lambda: {"model.norm.weight": "hidden"})
    # Norms of which each head has one, and config.json's name of the number of heads.
    head_norms: dict[str, str] = field(default_factory=dict)


GEMMA = {
    "head_dim": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 32,
    "sliding_window": 64,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
HEAD_NORMS = {"self_attn.q_norm.weight": "head", "self_attn.k_norm.weight": "head"}
QWEN3 = {"tie_word_embeddings": True, "head_dim": 32, "attention_bias": False}
TINY = {
    "qwen2": Tiny("Qwen2ForCausalLM", {"tie_word_embeddings": True}, LLAMA | QKV_BIAS, "qwen2"),
    "qwen3": Tiny("Qwen3ForCausalLM", QWEN3, LLAMA | HEAD_NORMS, "qwen2"),
    "qwen3_reranker": Tiny("Qwen3ForCausalLM", QWEN3, LLAMA | HEAD_NORMS, "qwen2-yes-no"),
    "qwen3_embedding": Tiny(
        "Qwen3ForCausalLM",
        QWEN3,
        LLAMA | HEAD_NORMS,
        "qwen2-ending",
        embedding="embed_tokens.weight",
        ends={"norm.weight": "hidden"},
        layers="layers",
    ),
    "llama": Tiny(
        "LlamaForCausalLM",
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "head_dim": 16},
        LLAMA,
        "llama-bpe",
    ),
    "mistral": Tiny("MistralForCausalLM", {"bos_token_id": 1}, LLAMA),
    "gemma2": Tiny(
        "Gemma2ForCausalLM",
        GEMMA
        | {"rope_theta": 10000.0}
        | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
        NORMS | SANDWICH | QKV | OUT | MLP,
        "gemma",
    ),
    "gemma3": Tiny(
        "Gemma3ForCausalLM",
        GEMMA | {"model_type": "gemma3_text", "rope_local_base_freq": 10000.0},
        NORMS | SANDWICH | QKV | HEAD_NORMS | OUT | MLP,
        "gemma",
    ),
    "phi3": Tiny(
        "Phi3ForCausalLM",
        {"original_max_position_embeddings": 128, "sliding_window": 2047, "eos_token_id": 2},
        NORMS | {"self_attn.qkv_proj.weight": "qkv hidden"} | OUT | FUSED_MLP,
        "phi3",
    ),
    "glm4": Tiny(
        "Glm4ForCausalLM",
        {"head_dim": 16, "attention_bias": True, "partial_rotary_factor": 0.5},
        NORMS
        | {"post_self_attn_layernorm.weight": "hidden", "post_mlp_layernorm.weight": "hidden"}
        | QKV
        | QKV_BIAS
        | OUT
        | FUSED_MLP,
        "glm4",
    ),
    "glm": Tiny(
        "GlmForCausalLM",
        {"head_dim": 16, "attention_bias": True, "partial_rotary_factor": 0.5},
        NORMS | QKV | QKV_BIAS | OUT | FUSED_MLP,
        "glm4",
    ),
    "internlm2": Tiny(
        "InternLM2ForCausalLM",
        {"bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {
            "attention_norm.weight": "hidden",
            "ffn_norm.weight": "hidden",
            "attention.wqkv.weight": "qkv hidden",
            "attention.wo.weight": "hidden q",
            "feed_forward.w1.weight": "ff hidden",
            "feed_forward.w3.weight": "ff hidden",
            "feed_forward.w2.weight": "hidden ff",
        },
        "internlm2",
        embedding="model.tok_embeddings.weight",
        head="output.weight",
    ),
    "internlm3": Tiny(
        "InternLM3ForCausalLM",
        {"bias": False, "qkv_bias": False, "head_dim": 16},
        LLAMA,
        "internlm3",
    ),
    "minicpm": Tiny(
        "MiniCPMForCausalLM",
        {
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 32,
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
        },
        LLAMA,
    ),
    "minicpm3": Tiny(
        "MiniCPM3ForCausalLM",
        {
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 256,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "q_lora_rank": 24,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 16,
            "rope_scaling": LONGROPE,
        },
        NORMS
        | {
            "self_attn.q_a_proj.weight": "q_rank hidden",
            "self_attn.q_a_layernorm.weight": "q_rank",
            "self_attn.q_b_proj.weight": "q_b q_rank",
            "self_attn.kv_a_proj_with_mqa.weight": "kv_a hidden",
            "self_attn.kv_a_layernorm.weight": "kv_rank",
            "self_attn.kv_b_proj.weight": "kv_b kv_rank",
        }
        | OUT
        | MLP,
    ),
    "baichuan": Tiny(
        "BaichuanForCausalLM",
        {"num_key_value_heads": None, "rope_theta": None, "model_max_length": 512},
        NORMS | {"self_attn.W_pack.weight": "qkv hidden"} | OUT | MLP,
    ),
    "granite": Tiny(
        "GraniteForCausalLM",
        {
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.015625,
            "tie_word_embeddings": True,
        },
        LLAMA,
        "smollm",
    ),
    "olmo2": Tiny(
        "Olmo2ForCausalLM",
        {},
        QKV
        | {"self_attn.q_norm.weight": "q", "self_attn.k_norm.weight": "kv"}
        | OUT
        | MLP
        | {
            "post_attention_layernorm.weight": "hidden",
            "post_feedforward_layernorm.weight": "hidden",
        },
        "dbrx",
    ),
    "olmo3": Tiny(
        "Olmo3ForCausalLM",
        {"sliding_window": 64},
        QKV
        | {"self_attn.q_norm.weight": "q", "self_attn.k_norm.weight": "kv"}
        | OUT
        | MLP
        | {
            "post_attention_layernorm.weight": "hidden",
            "post_feedforward_layernorm.weight": "hidden",
        },
        "dbrx",
    ),
    "smollm3": Tiny(
        "SmolLM3ForCausalLM",
        {"tie_word_embeddings": True, "num_hidden_layers": 4, "no_rope_layer_interval": 4},
        LLAMA,
        "llama-bpe",
    ),
    "stablelm": Tiny(
        "StableLmForCausalLM",
        {
            "layer_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "use_qkv_bias": True,
            "use_parallel_residual": False,
        },
        LLAMA
        | QKV_BIAS
        | {"input_layernorm.bias": "hidden", "post_attention_layernorm.bias": "hidden"},
        "qwen2",
        ends={"model.norm.weight": "hidden", "model.norm.bias": "hidden"},
    ),
    "stablelm_12b": Tiny(
        "StableLmForCausalLM",
        {
            "model_type": "stablelm",
            "layer_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "qk_layernorm": True,
            "use_parallel_residual": True,
        },
        {"input_layernorm.weight": "hidden", "input_layernorm.bias": "hidden"} | QKV | OUT | MLP,
        "qwen2",
        ends={"model.norm.weight": "hidden", "model.norm.bias": "hidden"},
        head_norms={
            "self_attn.q_layernorm.norms": "num_attention_heads",
            "self_attn.k_layernorm.norms": "num_key_value_heads",
        },
    ),
}
