"""Byte-level BPE (Qwen, Llama 3, SmolLM, GPT-2) -> GGUF's `gpt2` tokenizer."""

from __future__ import annotations

from convert.vocab.pre import pre_tokenizer
from convert.vocab.special import Special
from convert.vocab.tokenizer_json import Tokenizer, need_type
from convert.vocab.tokens import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Vocab,
    looks_special,
    reversed_vocab,
)
from portable.errors import CheckpointError


def read(tokenizer: Tokenizer, size: int) -> Vocab:
    need_type(tokenizer, "BPE")
    tokens, types = base(tokenizer, size)
    special = Special(tokenizer.checkpoint)
    merges = special.merges()
    if not merges:
        raise CheckpointError("the tokenizer has no merges", hint="download tokenizer.json again")
    return Vocab(
        "gpt2",
        pre_tokenizer(tokenizer),
        [token.encode("utf-8", "surrogatepass") for token in tokens],
        types,
        merges=merges,
        keys=special.keys(),
    )


def base(tokenizer: Tokenizer, size: int) -> tuple[list[str], list[int]]:
    """A token and a type for each row of the embedding; rows without a token are padding."""
    by_id = reversed_vocab(tokenizer.whole_vocab(), size)
    tokens, types = [], []
    for number in range(size):
        token, kind = by_id.get(number), UNUSED
        if token is None:
            token = f"[PAD{number}]"
        elif token in tokenizer.added:
            token, kind = _added(tokenizer, token)
        else:
            kind = NORMAL
        tokens.append(token)
        types.append(kind)
    return tokens, types


def _added(tokenizer: Tokenizer, token: str) -> tuple[str, int]:
    """llama.cpp matches added tokens in raw text, so they are written as they are decoded."""
    added = tokenizer.added[token]
    text = token if added.normalized else tokenizer.round_trip(token)
    if added.special or looks_special(text):
        return text, CONTROL
    return text.replace("▁", " "), USER_DEFINED
