"""Qwen3-Reranker: a Qwen3 whose output matrix is cut to its two answers; knows no weights.

Its config.json is a language model's, so `convert.rerank` recognises it and names the answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from convert.arch import decoder, qwen3
from convert.arch.table import Row
from convert.config import Config
from convert.part import Integers

ARCHITECTURES: Sequence[str] = ()
GGUF = qwen3.GGUF
DEFAULTS = qwen3.DEFAULTS
RENAMED = qwen3.RENAMED
SKIP = qwen3.SKIP
VOCAB = qwen3.VOCAB
ANSWERS = ("yes", "no")
RANK_POOLING = 4
TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
    "answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)

sizes = qwen3.sizes
extra_tensors = qwen3.extra_tensors


def rows(config: Config) -> Sequence[Row]:
    """The classifier is the answers' rows of the output matrix, and that is not kept."""
    head = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    classifier = Row(head, "cls.output.weight", ("vocab", "hidden"), pick=partial(answers, config))
    kept = [row for row in qwen3.rows(config) if row.target != "output.weight"]
    return [classifier, *kept]


def answers(config: Config) -> Integers:
    """Their rows, which are their token ids."""
    return np.array([config.get(f"{answer}_token_id") for answer in ANSWERS])


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.metadata(config)
    yield "pooling_type", "uint32", RANK_POOLING
    yield "classifier.output_labels", "strings", list(ANSWERS)
    yield "tokenizer.chat_template.rerank", "string", TEMPLATE
    yield "tokenizer.chat_templates", "strings", ["rerank"]
