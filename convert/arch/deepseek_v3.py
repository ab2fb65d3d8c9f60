"""DeepSeek-V3, V3.1 and R1: V2's layers, experts chosen with a correction; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.arch import deepseek_v2
from convert.arch.decoder import BLOCK, LAYER
from convert.arch.table import Row
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("DeepseekV3ForCausalLM",)
GGUF = deepseek_v2.GGUF
DEFAULTS: Mapping[str, Any] = {
    **deepseek_v2.DEFAULTS,
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 4096,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
RENAMED = deepseek_v2.RENAMED
SKIP = deepseek_v2.SKIP
VOCAB = deepseek_v2.VOCAB

sizes = deepseek_v2.sizes
metadata = deepseek_v2.metadata
extra_tensors = deepseek_v2.extra_tensors


def rows(config: Config) -> Sequence[Row]:
    correction = Row(
        f"{LAYER}.mlp.gate.e_score_correction_bias",
        f"{BLOCK}.exp_probs_b.bias",
        ("experts",),
        layers=range(deepseek_v2.dense_layers(config), config.layers),
    )
    return [*deepseek_v2.rows(config), correction]
