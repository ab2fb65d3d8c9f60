"""Tokenizer files -> what a GGUF says about the tokenizer; knows no weights and no transformers."""

from __future__ import annotations

from typing import Any

from convert.checkpoint import Checkpoint
from convert.vocab import byte_level, sentencepiece, wordpiece
from convert.vocab.tokenizer_json import Tokenizer, is_spm_style
from convert.vocab.tokens import Keys, Vocab, check
from portable.errors import CheckpointError

__all__ = ["Keys", "Vocab", "read_vocab"]

CODE_LLAMA = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}


def read_vocab(checkpoint: Checkpoint, kind: str, size: int, config: dict[str, Any]) -> Vocab:
    """`kind` is a family's VOCAB, `size` the number of rows of its embedding."""
    try:
        vocab = _read(checkpoint, kind, size, config)
        check(vocab, size)
    except (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError) as error:
        # These files nest deeply and everything in them may be of the wrong type.
        raise CheckpointError(
            f"the tokenizer files are malformed ({type(error).__name__}: {error})"[:200],
            hint="download the tokenizer files again",
        ) from error
    return vocab


def _read(checkpoint: Checkpoint, kind: str, size: int, config: dict[str, Any]) -> Vocab:
    if kind == "wordpiece":
        return wordpiece.read(Tokenizer(checkpoint), size, config)
    if checkpoint.has("tokenizer.model"):
        vocab = sentencepiece.read_model(checkpoint, size)
    else:
        tokenizer = Tokenizer(checkpoint)
        spm = kind == "llama" and is_spm_style(tokenizer.model)
        read = sentencepiece.read_tokenizer_json if spm else byte_level.read
        vocab = read(tokenizer, size)
    if kind == "llama":
        _llama_keys(checkpoint, vocab, size)
    return vocab


def _llama_keys(checkpoint: Checkpoint, vocab: Vocab, size: int) -> None:
    settings = checkpoint.json("tokenizer_config.json") or {}
    prefix = settings.get("add_prefix_space")
    if prefix is not None:
        if not isinstance(prefix, bool):
            raise CheckpointError("tokenizer_config.json: add_prefix_space is not true or false")
        vocab.leading["tokenizer.ggml.add_space_prefix"] = prefix
    if size == 32016:
        vocab.keys.setdefault("tokenizer.ggml.eot_token_id", CODE_LLAMA["eot"])
    if size == 49152:
        # SmolLM's and Granite's size: their tokenizers never add a BOS, whatever the files say.
        vocab.keys["tokenizer.ggml.add_bos_token"] = False
