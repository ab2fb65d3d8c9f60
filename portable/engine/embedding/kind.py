"""What a GGUF file is for, by its head: text, vectors, or the ranking of documents. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from portable import gguf
from portable.engine.backend import Task
from portable.engine.config import EngineConfig
from portable.errors import WrongModel

Pooled = Literal["mean", "cls", "last", "rank"]

# llama.cpp's numbers; 0 is none.
_POOLING: dict[int, Pooled] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
_MAKES = {
    "generate": "generates text",
    "embed": "makes embeddings: ask /v1/embeddings",
    "rerank": "ranks documents: ask /v1/rerank",
}


class Kind(NamedTuple):
    """`pooling` is how a text's tokens become one vector."""

    task: Task
    pooling: Pooled


def kind_of(config: EngineConfig) -> Kind:
    """Raises ModelFileError for what is no GGUF file, and OSError as it comes."""
    head = gguf.read(gguf.shards(config.model)[0])
    architecture = head.keys.get("general.architecture")
    own = _POOLING.get(head.keys.get(f"{architecture}.pooling_type", 0))
    if any(tensor.name.startswith("cls.") for tensor in head.infos):
        own = "rank"  # files of cross-encoders name the pooling of the model they were made from
    asked = next((name for name in _POOLING.values() if name == config.pooling), None)
    if own == "rank" and not asked:
        return Kind("rerank", "rank")
    is_encoder = own or head.keys.get(f"{architecture}.attention.causal") is False
    return Kind("embed" if is_encoder else "generate", asked or own or "mean")


def wrong_model(task: Task) -> WrongModel:
    """The refusal of what this model is not for."""
    hint = "" if task != "generate" else "choose an embedding model or a reranker"
    return WrongModel(f"this model {_MAKES[task]}", hint=hint, param="model")
