"""Heads of GGUF files of models of common sizes, as the converter would begin them; no weights."""

from __future__ import annotations

import json
import math
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

from checkpoints import SPLITTERS, STYLES, TINY, byte_level, spm, write_json
from tiny_shapes import tiny_config, tiny_shapes

from convert import Options
from convert.checkpoint import Checkpoint
from convert.plan import Plan

# family, hidden size, feed forward, layers, heads, heads of keys and values, vocabulary; and more.
LARGE: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "qwen2.5-7b": ("qwen2", (3584, 18944, 28, 28, 4, 152064), {"tie_word_embeddings": False}),
    "llama-3-8b": ("llama", (4096, 14336, 32, 32, 8, 128256), {"head_dim": 128}),
    "gemma-3-4b": (
        "gemma3",
        (2560, 10240, 34, 8, 4, 262208),
        {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 1024},
    ),
    "minicpm3-4b": (
        "minicpm3",
        (2560, 6400, 62, 40, 40, 73448),
        {
            "q_lora_rank": 768,
            "kv_lora_rank": 256,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "rope_scaling": None,
        },
    ),
    "qwen3-30b-a3b": (
        "qwen3_moe",
        (2048, 6144, 48, 32, 4, 151936),
        {
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
    ),
    "deepseek-v2-lite": (
        "deepseek_v2",
        (2048, 10944, 27, 16, 16, 102400),
        {
            "q_lora_rank": None,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "n_routed_experts": 64,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1408,
        },
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        (2880, 2880, 24, 64, 8, 201088),
        {
            "head_dim": 64,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
            "experts_per_token": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 12,
        },
    ),
}
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def front(folder: Path, name: str) -> tuple[bytes, int]:
    """The first bytes of a Q4_K_M of the model, and how long the whole file would be."""
    family, sizes, more = LARGE[name]
    folder.mkdir()
    tokenizer = TINY[family].splitter if family in TINY else SPLITTERS[family]
    is_spm = tokenizer in STYLES
    count = spm(folder, tokenizer, True) if is_spm else byte_level(folder, tokenizer)
    config = tiny_config(family, count) | dict(zip(_SIZES, sizes)) | more
    write_json(folder / "config.json", config | {"max_position_embeddings": 131072})
    header, at = {}, 0
    for tensor, shape in tiny_shapes(family, config, None).items():
        packed = tensor.endswith(("_blocks", "_scales"))
        size = math.prod(shape) * (1 if packed else 2)
        kind = "U8" if packed else "BF16"
        header[tensor] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    with closing(Checkpoint(folder)) as checkpoint:
        plan = Plan(checkpoint, Options(quant="Q4_K_M"), name)
        return plan.front, plan.size
