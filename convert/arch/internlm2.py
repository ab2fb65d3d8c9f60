"""InternLM2 and 2.5: queries, keys and values grouped in one matrix; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from convert.arch import decoder, llama
from convert.arch.decoder import BLOCK, LAYER
from convert.arch.table import Row, linear, rotary_order
from convert.config import Config
from convert.part import Integers

ARCHITECTURES: Sequence[str] = ("InternLM2ForCausalLM",)
GGUF = "internlm2"
DEFAULTS: Mapping[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
RENAMED: Sequence[tuple[str, str]] = ()
SKIP = decoder.SKIP
VOCAB = "internlm2"
NORMS = (("attention_norm", "attn_norm"), ("ffn_norm", "ffn_norm"))

metadata = decoder.metadata
extra_tensors = decoder.no_extra_tensors
sizes = llama.sizes


def rows(config: Config) -> Sequence[Row]:
    fused, feed = f"{LAYER}.attention.wqkv.weight", f"{LAYER}.feed_forward"
    parts = [
        Row(
            fused,
            f"{BLOCK}.attn_{name}.weight",
            ("qkv", "hidden"),
            pick=partial(pick, config, name),
        )
        for name in "qkv"
    ]
    return [
        Row("model.tok_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        Row("model.norm.weight", "output_norm.weight", ("hidden",)),
        Row("output.weight", "output.weight", ("vocab", "hidden"), optional=True),
        *decoder.norms(NORMS),
        *parts,
        *linear(f"{LAYER}.attention.wo", f"{BLOCK}.attn_output", ("hidden", "q")),
        *linear(f"{feed}.w1", f"{BLOCK}.ffn_gate", ("ff", "hidden")),
        *linear(f"{feed}.w3", f"{BLOCK}.ffn_up", ("ff", "hidden")),
        *linear(f"{feed}.w2", f"{BLOCK}.ffn_down", ("hidden", "ff")),
    ]


def pick(config: Config, name: str) -> Integers:
    """Rows of `q`, `k` or `v`: each key head lies behind its query heads, then its value head."""
    head, groups = config.head_dim, config.kv_heads
    shared = config.heads // groups
    grouped = np.arange(groups * (shared + 2) * head).reshape(groups, shared + 2, head)
    if name == "v":
        return grouped[:, -1].reshape(-1)
    found = grouped[:, :shared] if name == "q" else grouped[:, -2]
    return found.reshape(-1)[rotary_order(found.size, config.heads if name == "q" else groups)]
