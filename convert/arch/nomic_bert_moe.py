"""Nomic-BERT with experts in some layers, such as nomic-embed-text-v2-moe; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convert.arch import bert, experts, nomic_bert
from convert.arch.nomic_bert import BLOCK, LAYER, NARROW, WIDE
from convert.arch.table import Row, linear
from convert.config import Config

# The same name as nomic_bert's: a key of config.json tells them apart.
ARCHITECTURES: Sequence[str] = ()
GGUF = "nomic-bert-moe"
DEFAULTS = nomic_bert.DEFAULTS
RENAMED = nomic_bert.RENAMED
SKIP = rf"{bert.SKIP}|encoder\.layers\.\d+\.mlp\.experts\.bias"
VOCAB = "unigram-mask"
BIASED = dict.fromkeys(nomic_bert.PLAIN, True)

extra_tensors = nomic_bert.extra_tensors


def rows(config: Config) -> Sequence[Row]:
    step, last = config.count("moe_every_n_layers"), config.count("n_layer")
    mixed = [i for i in range(last) if i % step == 1]
    plain = [i for i in range(last) if i % step != 1]
    source = f"{LAYER}.mlp.experts.{{e}}.mlp"
    dense = [
        *linear(f"{LAYER}.mlp.fc1", f"{BLOCK}.ffn_up", WIDE, "required"),
        *linear(f"{LAYER}.mlp.fc2", f"{BLOCK}.ffn_down", NARROW, "required"),
    ]
    mixture = [
        Row(
            f"{LAYER}.mlp.router.layer.weight",
            f"{BLOCK}.ffn_gate_inp.weight",
            ("experts", "hidden"),
        ),
        Row(f"{source}.w1", f"{BLOCK}.ffn_up_exps.weight", WIDE),
        Row(
            f"{source}.w2",
            f"{BLOCK}.ffn_down_exps.weight",
            WIDE,
            map=np.transpose,
            whole=True,
            shape=NARROW,
        ),
    ]
    return [
        *nomic_bert.layer(bias="required"),
        *(replace(row, layers=plain) for row in dense),
        *(replace(row, layers=mixed) for row in mixture),
    ]


def sizes(config: Config) -> dict[str, int]:
    wanted = {**nomic_bert.FIXED, **BIASED, "activation_function": "gelu"}
    nomic_bert.check_kind(config, wanted)
    config.count("moe_every_n_layers")
    return nomic_bert.common_sizes(config) | {"experts": experts.count(config)}


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from nomic_bert.metadata(config)
    count = experts.count(config)
    yield "expert_count", "uint32", count
    yield "moe_every_n_layers", "uint32", config.count("moe_every_n_layers")
    yield "expert_used_count", "uint32", config.count("moe_top_k", limit=count)
