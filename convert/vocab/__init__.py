"""Tokenizer files -> what a GGUF says about the tokenizer; knows no weights and no transformers."""

from __future__ import annotations

from typing import Any

from convert.checkpoint import Checkpoint
from convert.vocab import byte_level, families, sentencepiece, unigram, wordpiece
from convert.vocab.tokenizer_json import Tokenizer, is_spm_style
from convert.vocab.tokens import Keys, Vocab, check, trusting_nothing

__all__ = ["Keys", "Vocab", "read_vocab"]

# Families whose SentencePiece tokens are of the type that the files say, whatever they look like.
TYPED_BY_FLAG = ("phi3", "internlm2")


def read_vocab(checkpoint: Checkpoint, kind: str, size: int, config: dict[str, Any]) -> Vocab:
    """`kind` is a family's VOCAB, `size` the number of rows of its embedding."""
    with trusting_nothing():
        vocab = _read(checkpoint, kind, size, config)
        check(vocab, size)
    return vocab


def _read(checkpoint: Checkpoint, kind: str, size: int, config: dict[str, Any]) -> Vocab:
    if kind == "wordpiece":
        return wordpiece.read(Tokenizer(checkpoint), size, config)
    if kind.startswith("unigram"):
        return unigram.read(checkpoint, size, config, mask=kind == "unigram-mask")
    if checkpoint.has("tokenizer.model"):
        vocab = sentencepiece.read_model(checkpoint, size, kind in TYPED_BY_FLAG)
    else:
        tokenizer = Tokenizer(checkpoint)
        spm = is_spm_style(tokenizer.model)
        read = sentencepiece.read_tokenizer_json if spm else byte_level.read
        vocab = read(tokenizer, size)
    if kind in families.ADJUST:
        families.ADJUST[kind](vocab, checkpoint)
    return vocab
