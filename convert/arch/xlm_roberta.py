"""XLM-RoBERTa encoders, such as bge-m3 and bge-reranker-v2-m3; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from convert.arch import bert
from convert.arch.table import Row, linear
from convert.config import Config

CLASSIFIER = "XLMRobertaForSequenceClassification"
ARCHITECTURES: Sequence[str] = ("XLMRobertaModel", CLASSIFIER)
GGUF = bert.GGUF
DEFAULTS: Mapping[str, Any] = {
    **bert.DEFAULTS,
    "pad_token_id": 1,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
}
POSITIONS = "embeddings.position_embeddings.weight"
RENAMED: Sequence[tuple[str, str]] = ((r"^roberta\.", ""), *bert.RENAMED)
SKIP = bert.SKIP
VOCAB = "unigram"

extra_tensors = bert.extra_tensors


def rows(config: Config) -> Sequence[Row]:
    """The first positions are the padding's, which llama.cpp does without."""
    kept = partial(np.arange, offset(config), config.count("max_position_embeddings"))
    positions = Row(POSITIONS, "position_embd.weight", ("positions", "hidden"), pick=kept)
    found = [row for row in bert.ROWS if row.source != POSITIONS]
    if config.get("architectures") == [CLASSIFIER]:
        found += linear("classifier.dense", "cls", ("hidden", "hidden"), "required")
        found += linear("classifier.out_proj", "cls.output", ("labels", "hidden"), "required")
    return [positions, *found]


def offset(config: Config) -> int:
    """Positions are counted from the one after the padding token's id."""
    pad = config.get("pad_token_id")
    if type(pad) is not int or not 0 <= pad < config.count("max_position_embeddings") - 1:
        raise config.bad("pad_token_id", "a token id that leaves positions for the text")
    return pad + 1


def labels(config: Config) -> list[str]:
    """What the classifier's outputs mean, in their order."""
    found = config.get("id2label")
    if not isinstance(found, dict) or not found:
        raise config.bad("id2label", "an object of names by number")
    if sorted(found) != sorted(map(str, range(len(found)))):
        raise config.bad("id2label", "names by the numbers from 0")
    return [str(found[str(i)]) for i in range(len(found))]


def sizes(config: Config) -> dict[str, int]:
    return bert.sizes(config) | {"labels": len(labels(config))}


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    length = config.count("max_position_embeddings") - offset(config)
    yield from bert.metadata(Config({"max_position_embeddings": length}, config.values))
    names = labels(config)
    # Two labels of which the first has no name of its own are those that transformers makes up.
    if len(names) != 2 or names[0] != "LABEL_0":
        yield "classifier.output_labels", "strings", names
