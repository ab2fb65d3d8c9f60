"""The tiny checkpoints that golden data exists for: family, pre-tokenizer, config.json's keys."""

from __future__ import annotations

from typing import Any

from tiny_families import LONGROPE

TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2": ("qwen2", "qwen2", {}),
    "qwen2-untied-f32-sharded": (
        "qwen2",
        "qwen2",
        {"tie_word_embeddings": False, "dtype": "F32", "shards": 3, "seed": 1},
    ),
    "qwen2-yarn": (
        "qwen2",
        "qwen2",
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
    "qwen3": ("qwen3", "qwen2", {}),
    "llama3": ("llama", "llama-bpe", {"head_dim": None}),
    "llama-linear-f16-tied-head": (
        "llama",
        "llama-bpe",
        {
            "attention_bias": True,
            "dtype": "F16",
            "tie_word_embeddings": True,
            "head": True,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    ),
    "mistral": ("mistral", "", {}),
    "mistral-spm": ("mistral", "", {"spm": True}),
    "bert": ("bert", "jina-v2-en", {}),
    "qwen3-embedding": ("qwen3_embedding", "qwen2", {}),
    "qwen3-reranker": ("qwen3_reranker", "qwen2", {}),
    "qwen3-reranker-untied": ("qwen3_reranker", "qwen2", {"tie_word_embeddings": False}),
    "qwen3-moe": ("qwen3_moe", "qwen2", {}),
    "qwen2-moe": ("qwen2_moe", "qwen2", {}),
    "xlm-roberta": ("xlm_roberta", "", {"spm": True}),
    "xlm-roberta-json": ("xlm_roberta", "", {}),
    "xlm-roberta-classifier": ("xlm_roberta_classifier", "", {"spm": True}),
    "qwen3-fp8": ("qwen3", "qwen2", {"fp8": [48, 40]}),
    "deepseek-v2": ("deepseek_v2", "deepseek-llm", {}),
    # llama.cpp knows this kind by its number of layers.
    "deepseek-v2-lite": (
        "deepseek_v2",
        "deepseek-llm",
        {"q_lora_rank": None, "num_hidden_layers": 26, "first_k_dense_replace": 24},
    ),
    "deepseek-v3": ("deepseek_v3", "deepseek-v3", {"shards": 2}),
    "deepseek-v3-fp8": ("deepseek_v3", "deepseek-v3", {"fp8": [32, 40]}),
    "gpt-oss": ("gpt_oss", "gpt-4o", {}),
    "gpt-oss-bf16": ("gpt_oss", "gpt-4o", {"quantization_config": None}),
    "nomic-bert": ("nomic_bert", "jina-v2-en", {}),
    "nomic-bert-moe": ("nomic_bert_moe", "", {}),
    "mixtral": ("mixtral", "", {"spm": True}),
    "gemma2": ("gemma2", "", {}),
    "gemma3": ("gemma3", "", {}),
    "phi3": ("phi3", "", {}),
    "phi3-longrope": ("phi3", "", {"rope_scaling": LONGROPE}),
    "phi4-mini": (
        "phi3",
        "gpt-4o",
        {
            "splitter": "gpt-4o",
            "sliding_window": None,
            "partial_rotary_factor": 0.5,
            "rope_scaling": {
                "type": "longrope",
                **{kind: LONGROPE[kind][:4] for kind in ("short_factor", "long_factor")},
            },
            "tie_word_embeddings": True,
        },
    ),
    "glm4": ("glm4", "glm4", {}),
    "glm": ("glm", "glm4", {}),
    "internlm2": ("internlm2", "", {}),
    "internlm3": ("internlm3", "", {}),
    "minicpm": ("minicpm", "", {}),
    "minicpm-longrope": ("minicpm", "", {"rope_scaling": LONGROPE}),
    "minicpm3": ("minicpm3", "", {}),
    "baichuan": ("baichuan", "", {}),
    "granite": ("granite", "smollm", {}),
    "olmo2": ("olmo2", "dbrx", {}),
    "olmo3": ("olmo3", "dbrx", {}),
    "smollm3": ("smollm3", "llama-bpe", {}),
    "stablelm-12b": ("stablelm_12b", "qwen2", {}),
    "stablelm": ("stablelm", "qwen2", {}),
}
