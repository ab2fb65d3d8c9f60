"""BERT encoders for embeddings, such as all-MiniLM: tables only; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch.table import Row, linear
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("BertModel", "BertForMaskedLM")
GGUF = "bert"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
}
LAYER, BLOCK = "encoder.layer.{i}", "blk.{i}"


def norm(source: str, target: str) -> list[Row]:
    return [Row(f"{source}.{p}", f"{target}.{p}", ("hidden",)) for p in ("weight", "bias")]


ROWS: Sequence[Row] = [
    Row("embeddings.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    Row("embeddings.position_embeddings.weight", "position_embd.weight", ("positions", "hidden")),
    Row("embeddings.token_type_embeddings.weight", "token_types.weight", ("types", "hidden")),
    *norm("embeddings.LayerNorm", "token_embd_norm"),
    *linear(f"{LAYER}.attention.self.query", f"{BLOCK}.attn_q", ("hidden", "hidden"), "required"),
    *linear(f"{LAYER}.attention.self.key", f"{BLOCK}.attn_k", ("hidden", "hidden"), "required"),
    *linear(f"{LAYER}.attention.self.value", f"{BLOCK}.attn_v", ("hidden", "hidden"), "required"),
    *linear(
        f"{LAYER}.attention.output.dense", f"{BLOCK}.attn_output", ("hidden", "hidden"), "required"
    ),
    *norm(f"{LAYER}.attention.output.LayerNorm", f"{BLOCK}.attn_output_norm"),
    *linear(f"{LAYER}.intermediate.dense", f"{BLOCK}.ffn_up", ("ff", "hidden"), "required"),
    *linear(f"{LAYER}.output.dense", f"{BLOCK}.ffn_down", ("hidden", "ff"), "required"),
    *norm(f"{LAYER}.output.LayerNorm", f"{BLOCK}.layer_output_norm"),
]
RENAMED: Sequence[tuple[str, str]] = (
    (r"^bert\.", ""),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
)
# The pooler and the training heads play no part in an embedding.
SKIP = (
    r"embeddings\.position_ids|pooler\.dense\.(weight|bias)|cls\.(predictions|seq_relationship).*"
)
VOCAB = "wordpiece"


def rows(config: Config) -> Sequence[Row]:
    return ROWS


def sizes(config: Config) -> dict[str, int]:
    hidden, heads = config.count("hidden_size"), config.heads
    if hidden % heads:
        raise config.bad("num_attention_heads", f"a divisor of the hidden size, {hidden}")
    return {
        "layers": config.layers,
        "vocab": config.count("vocab_size"),
        "positions": config.count("max_position_embeddings"),
        "types": config.count("type_vocab_size"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "ff": config.count("intermediate_size"),
    }


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield "block_count", "uint32", config.layers
    yield "context_length", "uint32", config.count("max_position_embeddings")
    yield "embedding_length", "uint32", config.count("hidden_size")
    yield "feed_forward_length", "uint32", config.count("intermediate_size")
    yield "attention.head_count", "uint32", config.heads
    yield "attention.layer_norm_epsilon", "float32", config.number("layer_norm_eps")
    yield "attention.causal", "bool", False


def extra_tensors(config: Config) -> Mapping[str, Any]:
    return {}
