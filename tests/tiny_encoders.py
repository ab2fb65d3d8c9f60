"""config.json and tensor shapes of tiny encoders besides BERT: XLM-RoBERTa and Nomic-BERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, hidden: int) -> Shapes:
    return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}


def xlm_roberta(config: Config) -> Shapes:
    hidden, ff = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **norm("embeddings.LayerNorm", hidden),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        for part in ("query", "key", "value"):
            shapes |= linear(f"{layer}attention.self.{part}", hidden, hidden)
        shapes |= linear(f"{layer}attention.output.dense", hidden, hidden)
        shapes |= norm(f"{layer}attention.output.LayerNorm", hidden)
        shapes |= linear(f"{layer}intermediate.dense", ff, hidden)
        shapes |= linear(f"{layer}output.dense", hidden, ff)
        shapes |= norm(f"{layer}output.LayerNorm", hidden)
    if config["architectures"] == ["XLMRobertaModel"]:
        return shapes | linear("pooler.dense", hidden, hidden)
    shapes = {f"roberta.{name}": shape for name, shape in shapes.items()}
    shapes |= linear("classifier.dense", hidden, hidden)
    return shapes | linear("classifier.out_proj", 1, hidden)


def nomic_bert(config: Config) -> Shapes:
    hidden, ff = config["n_embd"], config["n_inner"]
    step, experts = config.get("moe_every_n_layers") or 0, config.get("num_experts") or 0
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **norm("emb_ln", hidden),
    }
    for i in range(config["n_layer"]):
        layer = f"encoder.layers.{i}."
        shapes |= linear(f"{layer}attn.Wqkv", 3 * hidden, hidden)
        shapes |= linear(f"{layer}attn.out_proj", hidden, hidden)
        shapes |= norm(f"{layer}norm1", hidden) | norm(f"{layer}norm2", hidden)
        if not step:
            shapes |= linear(f"{layer}mlp.fc11", ff, hidden) | linear(
                f"{layer}mlp.fc12", ff, hidden
            )
            shapes |= linear(f"{layer}mlp.fc2", hidden, ff)
        elif i % step == 1:
            shapes[f"{layer}mlp.router.layer.weight"] = (experts, hidden)
            shapes[f"{layer}mlp.experts.bias"] = (hidden,)
            shapes |= {f"{layer}mlp.experts.mlp.{w}": (experts * ff, hidden) for w in ("w1", "w2")}
        else:
            shapes |= linear(f"{layer}mlp.fc1", ff, hidden) | linear(f"{layer}mlp.fc2", hidden, ff)
    bias = config["qkv_proj_bias"]
    return {
        n: s for n, s in shapes.items() if bias or "norm" in n or "emb" in n or n[-4:] != "bias"
    }


SPLITTERS = {
    "xlm_roberta": "unigram",
    "xlm_roberta_classifier": "unigram",
    "nomic_bert_moe": "unigram",
}
XLM_ROBERTA = {
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
NOMIC = {
    "architectures": ["NomicBertModel"],
    "model_type": "nomic_bert",
    "n_embd": 64,
    "n_inner": 96,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 8192,
    "type_vocab_size": 2,
    "activation_function": "swiglu",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "prenorm": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_base": 1000,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "max_trained_positions": 2048,
}
ENCODERS: dict[str, tuple[Config, Callable[[Config], Shapes]]] = {
    "xlm_roberta": (XLM_ROBERTA, xlm_roberta),
    "xlm_roberta_classifier": (
        XLM_ROBERTA
        | {
            "architectures": ["XLMRobertaForSequenceClassification"],
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
        },
        xlm_roberta,
    ),
    "nomic_bert": (NOMIC, nomic_bert),
    "nomic_bert_moe": (
        NOMIC
        | {
            "activation_function": "gelu",
            "n_positions": 2048,
            "type_vocab_size": 1,
            "moe_every_n_layers": 2,
            "moe_top_k": 2,
            "num_experts": 4,
            "pad_token_id": 1,
            "rotary_emb_base": 10000,
        }
        | dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), True),
        nomic_bert,
    ),
}
