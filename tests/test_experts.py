"""Models with experts: what config.json may say of them, and how little of them is in memory."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from checkpoints import tiny
from ggufs import Gguf
from tiny_shapes import tiny_config

from convert import Options, check_config, convert
from convert.checkpoint import Checkpoint
from convert.plan import Plan
from convert.stream import chunks
from portable.errors import PortableError


@pytest.mark.parametrize(
    ("family", "key", "value", "said"),
    [
        ("qwen3_moe", "mlp_only_layers", [0], "no experts"),
        ("qwen2_moe", "decoder_sparse_step", 2, "no experts"),
        ("qwen3_moe", "num_experts_per_tok", 5, "from 1 to 4"),
        ("qwen3_moe", "num_experts", 0, "num_experts"),
        ("mixtral", "num_local_experts", "8", "num_local_experts"),
        ("deepseek_v2", "moe_layer_freq", 2, "moe_layer_freq"),
        ("deepseek_v2", "q_lora_rank", None, "26 and 27 layers"),
        ("deepseek_v2", "scoring_func", "relu", "softmax or sigmoid"),
        ("deepseek_v2", "scoring_func", ["softmax"], "softmax or sigmoid"),
        ("gpt_oss", "layer_types", ["full_attention"] * 2, "layer_types"),
        ("nomic_bert", "n_positions", [2048], "n_positions"),
        ("nomic_bert", "activation_function", "gelu", "activation_function"),
        ("nomic_bert_moe", "qkv_proj_bias", False, "qkv_proj_bias"),
        ("xlm_roberta", "pad_token_id", 200, "pad_token_id"),
        ("xlm_roberta_classifier", "id2label", {"1": "A"}, "id2label"),
        ("deepseek_v2", "first_k_dense_replace", 4, "0 to 3 layers"),
        ("deepseek_v3", "first_k_dense_replace", None, "0 to 3 layers"),
        ("deepseek_v3", "kv_lora_rank", -1, "kv_lora_rank"),
        ("deepseek_v3", "topk_group", 9, "topk_group"),
        ("deepseek_v3", "topk_group", 2, "topk_group"),
        ("deepseek_v3", "topk_group", None, "topk_group"),
        ("deepseek_v3", "n_group", 3, "n_group"),
        ("deepseek_v3", "n_group", 4, "n_group"),
    ],
)
def test_config_is_judged_before_weights(family: str, key: str, value: Any, said: str) -> None:
    with pytest.raises(PortableError) as caught:
        check_config(tiny_config(family, 320) | {key: value})
    assert said in f"{caught.value} {caught.value.hint}"


def test_experts_come_one_by_one(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen3_moe")
    with closing(Checkpoint(folder)) as checkpoint:
        plan = Plan(checkpoint, Options(quant="F32"), "model")
        stacked = next(job for job in plan.jobs if job.info.name == "blk.0.ffn_up_exps.weight")
        found = [chunk.data.nbytes for chunk in chunks(stacked.pieces, 1)]
    assert found == [stacked.info.bytes // 4] * 4


def test_a_name_without_a_size_counts_one_expert(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "mixtral")
    keys = Gguf(convert(folder, tmp_path / "out.gguf", Options(quant="F16")).path).keys
    label = keys["general.size_label"][1].decode()
    assert label.startswith("8x"), label
