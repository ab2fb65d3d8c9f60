"""WordPiece (BERT) -> GGUF's `bert` tokenizer, which marks where a word begins."""

from __future__ import annotations

from typing import Any

from convert.vocab.byte_level import base
from convert.vocab.special import Special
from convert.vocab.tokenizer_json import Tokenizer, need_type
from convert.vocab.tokens import CONTROL, Vocab


def read(tokenizer: Tokenizer, size: int, config: dict[str, Any]) -> Vocab:
    need_type(tokenizer, "WordPiece")
    tokens, types = base(tokenizer, size)
    marked = [phantom(token, kind) for token, kind in zip(tokens, types, strict=True)]
    return Vocab(
        "bert",
        # llama.cpp splits WordPiece text in one way only: the name has no effect.
        "jina-v2-en",
        [token.encode("utf-8") for token in marked],
        types,
        keys=Special(tokenizer.checkpoint, size).keys(),
        leading={"tokenizer.ggml.token_type_count": config.get("type_vocab_size", 2)},
    )


def phantom(token: str, kind: int) -> str:
    if kind == CONTROL:
        return token
    return token[2:] if token.startswith("##") else "▁" + token
