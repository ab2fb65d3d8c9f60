"""Nomic-BERT encoders with rotary positions, such as nomic-embed-text-v1.5; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import bert
from convert.arch.table import Row, linear
from convert.config import Config
from portable.errors import UnsupportedModel

ARCHITECTURES: Sequence[str] = ("NomicBertModel",)
GGUF = "nomic-bert"
DEFAULTS: Mapping[str, Any] = {"type_vocab_size": 2, "max_trained_positions": 2048}
RENAMED = bert.RENAMED
SKIP = bert.SKIP
VOCAB = bert.VOCAB
LAYER, BLOCK = "encoder.layers.{i}", "blk.{i}"
# What the model was trained for is less than what config.json promises, and known of these alone.
TRAINED_POSITIONS = {8192: 2048, 2048: 512}
# The only kind that llama.cpp knows.
FIXED: Mapping[str, Any] = {
    "causal": False,
    "prenorm": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
}
PLAIN = dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False)
WIDE, NARROW = ("ff", "hidden"), ("hidden", "ff")

extra_tensors = bert.extra_tensors


def rows(config: Config) -> Sequence[Row]:
    return [
        *layer(bias=""),
        *linear(f"{LAYER}.mlp.fc11", f"{BLOCK}.ffn_up", WIDE),
        *linear(f"{LAYER}.mlp.fc12", f"{BLOCK}.ffn_gate", WIDE),
        *linear(f"{LAYER}.mlp.fc2", f"{BLOCK}.ffn_down", NARROW),
    ]


def layer(bias: str) -> list[Row]:
    """All but the feed-forward part."""
    words = ("vocab", "hidden")
    return [
        Row("embeddings.word_embeddings.weight", "token_embd.weight", words),
        Row("embeddings.token_type_embeddings.weight", "token_types.weight", ("types", "hidden")),
        *bert.norm("emb_ln", "token_embd_norm"),
        *linear(f"{LAYER}.attn.Wqkv", f"{BLOCK}.attn_qkv", ("qkv", "hidden"), bias),
        *linear(f"{LAYER}.attn.out_proj", f"{BLOCK}.attn_output", ("hidden", "hidden"), bias),
        *bert.norm(f"{LAYER}.norm1", f"{BLOCK}.attn_output_norm"),
        *bert.norm(f"{LAYER}.norm2", f"{BLOCK}.layer_output_norm"),
    ]


def sizes(config: Config) -> dict[str, int]:
    check_kind(config, {**FIXED, **PLAIN, "activation_function": "swiglu"})
    return common_sizes(config)


def check_kind(config: Config, wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if config.get(key) != value:
            raise UnsupportedModel(
                f"config.json: {key} is {config.get(key)!r:.40}",
                hint=f"llama.cpp knows Nomic-BERT with {value!r} only",
            )


def common_sizes(config: Config) -> dict[str, int]:
    found = bert.sizes(standard(config))
    return found | {"qkv": 3 * found["hidden"]}


def standard(config: Config) -> Config:
    """The same under the names that other encoders use."""
    positions = config.get("n_positions")
    known = type(positions) is int and positions in TRAINED_POSITIONS
    if not known or config.get("max_trained_positions") != 2048:
        raise UnsupportedModel(
            f"config.json: n_positions is {positions!r:.40}",
            hint=f"llama.cpp's converter knows {', '.join(map(str, TRAINED_POSITIONS))} only",
        )
    names = {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "layer_norm_eps": "layer_norm_epsilon",
    }
    values = {name: config.get(own) for name, own in names.items()}
    values["max_position_embeddings"] = TRAINED_POSITIONS[positions]
    return Config(values, config.values)


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from bert.metadata(standard(config))
    yield "rope.freq_base", "float32", config.number("rotary_emb_base")
