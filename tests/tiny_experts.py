"""config.json and tensor shapes of tiny models with experts, as transformers' classes save them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 128,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}


def swiglu(name: str, hidden: int, ff: int, parts: tuple[str, str, str]) -> Shapes:
    """`parts` are the names of gate, up and down."""
    gate, up, down = (f"{name}.{part}.weight" for part in parts)
    return {gate: (ff, hidden), up: (ff, hidden), down: (hidden, ff)}


PROJ = ("gate_proj", "up_proj", "down_proj")


def grouped(config: Config, biases: str = "", norms: bool = False) -> Shapes:
    """Attention with grouped heads; `biases` are letters of q, k, v and o."""
    hidden, heads, kv = (
        config[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    width = config.get("head_dim") or hidden // heads
    rows = {"q": heads * width, "k": kv * width, "v": kv * width}
    shapes: Shapes = {f"self_attn.{n}_proj.weight": (rows[n], hidden) for n in "qkv"}
    shapes["self_attn.o_proj.weight"] = (hidden, heads * width)
    shapes |= {f"self_attn.{n}_proj.bias": (rows.get(n, hidden),) for n in biases}
    return shapes | ({f"self_attn.{n}_norm.weight": (width,) for n in "qk"} if norms else {})


def latent(config: Config) -> Shapes:
    """DeepSeek's attention: keys and values out of one low-rank projection."""
    hidden, heads, rank = (
        config[k] for k in ("hidden_size", "num_attention_heads", "kv_lora_rank")
    )
    nope, rope, value = (config[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    shapes: Shapes = {
        "self_attn.kv_a_proj_with_mqa.weight": (rank + rope, hidden),
        "self_attn.kv_a_layernorm.weight": (rank,),
        "self_attn.kv_b_proj.weight": (heads * (nope + value), rank),
        "self_attn.o_proj.weight": (hidden, heads * value),
    }
    if (q_rank := config["q_lora_rank"]) is None:
        return shapes | {"self_attn.q_proj.weight": (heads * (nope + rope), hidden)}
    return shapes | {
        "self_attn.q_a_proj.weight": (q_rank, hidden),
        "self_attn.q_a_layernorm.weight": (q_rank,),
        "self_attn.q_b_proj.weight": (heads * (nope + rope), q_rank),
    }


def qwen3_moe(config: Config, layer: int) -> Shapes:
    hidden, ff, count = (config[k] for k in ("hidden_size", "moe_intermediate_size", "num_experts"))
    shapes = grouped(config, norms=True) | {"mlp.gate.weight": (count, hidden)}
    for i in range(count):
        shapes |= swiglu(f"mlp.experts.{i}", hidden, ff, PROJ)
    return shapes


def qwen2_moe(config: Config, layer: int) -> Shapes:
    hidden, ff = config["hidden_size"], config["shared_expert_intermediate_size"]
    shapes = qwen3_moe(config, layer) | grouped(config, "qkv")
    shapes = {name: shape for name, shape in shapes.items() if "_norm" not in name}
    shapes |= swiglu("mlp.shared_expert", hidden, ff, PROJ)
    return shapes | {"mlp.shared_expert_gate.weight": (1, hidden)}


def mixtral(config: Config, layer: int) -> Shapes:
    hidden, ff, count = (
        config[k] for k in ("hidden_size", "intermediate_size", "num_local_experts")
    )
    shapes = grouped(config) | {"block_sparse_moe.gate.weight": (count, hidden)}
    for i in range(count):
        shapes |= swiglu(f"block_sparse_moe.experts.{i}", hidden, ff, ("w1", "w3", "w2"))
    return shapes


def deepseek(config: Config, layer: int) -> Shapes:
    hidden, ff, count = (
        config[k] for k in ("hidden_size", "moe_intermediate_size", "n_routed_experts")
    )
    shapes = latent(config)
    if layer < config["first_k_dense_replace"]:
        return shapes | swiglu("mlp", hidden, config["intermediate_size"], PROJ)
    shapes["mlp.gate.weight"] = (count, hidden)
    if config["topk_method"] == "noaux_tc":
        shapes["mlp.gate.e_score_correction_bias"] = (count,)
    for i in range(count):
        shapes |= swiglu(f"mlp.experts.{i}", hidden, ff, PROJ)
    shapes |= swiglu("mlp.shared_experts", hidden, ff * config["n_shared_experts"], PROJ)
    if layer == config["num_hidden_layers"]:
        # The layer that predicts the token after next, which transformers leaves out.
        shapes |= {"eh_proj.weight": (hidden, 2 * hidden), "embed_tokens.weight": (8, hidden)}
        shapes |= {f"{name}.weight": (hidden,) for name in ("enorm", "hnorm", "shared_head.norm")}
        shapes["shared_head.head.weight"] = (8, hidden)
    return shapes


def gpt_oss(config: Config, layer: int) -> Shapes:
    hidden, ff, count = (
        config[k] for k in ("hidden_size", "intermediate_size", "num_local_experts")
    )
    shapes = grouped(config, "qkvo") | {
        "self_attn.sinks": (config["num_attention_heads"],),
        "mlp.router.weight": (count, hidden),
        "mlp.router.bias": (count,),
    }
    for name, rows, columns in (("gate_up_proj", 2 * ff, hidden), ("down_proj", hidden, ff)):
        shapes[f"mlp.experts.{name}_bias"] = (count, rows)
        if not config["quantization_config"]:
            shapes[f"mlp.experts.{name}"] = (count, columns, rows)
            continue
        shapes |= {
            f"mlp.experts.{name}_blocks": (count, rows, columns // 32, 16),
            f"mlp.experts.{name}_scales": (count, rows, columns // 32),
        }
    return shapes


SPLITTERS = {
    "qwen3_moe": "qwen2",
    "qwen2_moe": "qwen2",
    "mixtral": "spm",
    "deepseek_v2": "deepseek-llm",
    "deepseek_v3": "deepseek-v3",
    "gpt_oss": "gpt-4o",
}
# What differs from the other decoders in config.json, and the tensors of a layer.
EXPERTS: dict[str, tuple[Config, Callable[[Config, int], Shapes]]] = {
    "qwen3_moe": (
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "tie_word_embeddings": False,
        },
        qwen3_moe,
    ),
    "qwen2_moe": (
        {
            "architectures": ["Qwen2MoeForCausalLM"],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": False,
            "tie_word_embeddings": False,
        },
        qwen2_moe,
    ),
    "mixtral": (
        {
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 64,
            "bos_token_id": 1,
            "sliding_window": None,
            "tie_word_embeddings": False,
        },
        mixtral,
    ),
    "deepseek_v2": (
        {
            "architectures": ["DeepseekV2ForCausalLM"],
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "q_lora_rank": 48,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 24,
            "n_routed_experts": 4,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
            "scoring_func": "softmax",
            "routed_scaling_factor": 1.0,
            "rope_scaling": YARN,
            "tie_word_embeddings": False,
        },
        deepseek,
    ),
    "gpt_oss": (
        {
            "architectures": ["GptOssForCausalLM"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "experts_per_token": 2,
            "intermediate_size": 64,
            "head_dim": 32,
            "attention_bias": True,
            "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"],
            "swiglu_limit": 7.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 128,
            },
            "tie_word_embeddings": False,
            "quantization_config": {
                "quant_method": "mxfp4",
                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
            },
        },
        gpt_oss,
    ),
}
EXPERTS["deepseek_v3"] = (
    EXPERTS["deepseek_v2"][0]
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "n_group": 2,
        "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 1,
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
    deepseek,
)


def expert_shapes(family: str, config: Config) -> Shapes:
    layer = EXPERTS[family][1]
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)):
        norms = {f"{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
        found = norms | layer(config, i)
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in found.items()}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
