"""SentencePiece unigram vocabularies (XLM-RoBERTa) -> GGUF's `t5` tokenizer.

From sentencepiece.bpe.model, which counts its tokens otherwise than the checkpoint does, or from
tokenizer.json.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from convert.checkpoint import Checkpoint
from convert.vocab.charsmap import check_charsmap
from convert.vocab.sentencepiece import fields, pieces
from convert.vocab.special import Special
from convert.vocab.tokenizer_json import Tokenizer, flattened, need_type, prepends
from convert.vocab.tokens import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocab
from portable.errors import CheckpointError, UnsupportedModel

MODEL = "sentencepiece.bpe.model"
# What the checkpoint's ids begin with; SentencePiece's own three pieces are left out for them.
FRAME = (b"<s>", b"<pad>", b"</s>", b"<unk>")
OWN_PIECES = 3
UNIGRAM = 1
PAD_SCORE = -10000.0


@dataclass(frozen=True)
class Normalizer:
    """How text is changed before it is split; `charsmap` is SentencePiece's compiled table."""

    charsmap: bytes = b""
    add_prefix: bool = True
    remove_extra_spaces: bool = True


def read(checkpoint: Checkpoint, size: int, config: dict[str, Any], mask: bool) -> Vocab:
    """`mask`: <mask>, which SentencePiece does not know, takes its place in the tokens."""
    vocab = Vocab("t5", "default", [], [])
    if checkpoint.has(MODEL):
        normalizer = _from_model(checkpoint, size, vocab)
        if mask:
            _put_mask(Tokenizer(checkpoint), vocab)
    else:
        normalizer = _from_json(Tokenizer(checkpoint), size, vocab)
    vocab.keys = {
        "tokenizer.ggml.add_space_prefix": normalizer.add_prefix,
        "tokenizer.ggml.token_type_count": config.get("type_vocab_size", 1),
        "tokenizer.ggml.remove_extra_whitespaces": normalizer.remove_extra_spaces,
    }
    if normalizer.charsmap:
        check_charsmap(normalizer.charsmap)
        vocab.keys["tokenizer.ggml.precompiled_charsmap"] = normalizer.charsmap
    vocab.keys |= Special(checkpoint, size).keys()
    return vocab


def _from_model(checkpoint: Checkpoint, size: int, vocab: Vocab) -> Normalizer:
    data = checkpoint.data(MODEL) or b""
    found = list(pieces(data))
    found += [(f"[PAD{i}]".encode(), PAD_SCORE, UNUSED) for i in range(len(found), size)]
    kept = found[OWN_PIECES:-1]
    vocab.tokens = [*FRAME, *(piece for piece, _, _ in kept)]
    vocab.scores = [0.0] * len(FRAME) + [score for _, score, _ in kept]
    types = (NORMAL if kind == USER_DEFINED else kind for _, _, kind in kept)
    vocab.types = [CONTROL, CONTROL, CONTROL, UNKNOWN, *types]
    parts = {number: value for number, value in fields(data) if isinstance(value, bytes)}
    if dict(fields(parts.get(2, b""))).get(3, UNIGRAM) != UNIGRAM:
        raise UnsupportedModel(f"{MODEL} is not a unigram model")
    spec = dict(fields(parts.get(3, b"")))
    return Normalizer(spec.get(2, b""), bool(spec.get(3, 1)), bool(spec.get(4, 1)))


def _from_json(tokenizer: Tokenizer, size: int, vocab: Vocab) -> Normalizer:
    need_type(tokenizer, "Unigram")
    by_id = {number: text for text, number in tokenizer.vocab.items()}
    special = tokenizer.special_texts()
    unknown = tokenizer.named.get("unk")
    for number in range(max(size, len(by_id))):
        text = by_id.get(number, f"[PAD{number}]")
        kind = NORMAL if number in by_id else UNUSED
        if text == unknown:
            kind = UNKNOWN
        elif text in special:
            kind = CONTROL
        elif text in tokenizer.added:
            kind = USER_DEFINED
        vocab.tokens.append(text.encode("utf-8"))
        vocab.scores.append(tokenizer.scores[number] if number in by_id else PAD_SCORE)
        vocab.types.append(kind)
    return _normalizer(tokenizer.json)


def _normalizer(found: dict[str, Any]) -> Normalizer:
    steps = [*flattened(found.get("normalizer")), *flattened(found.get("pre_tokenizer"))]
    charsmap, prefix, spaces = b"", False, False
    for step in steps:
        kind = step.get("type")
        if kind == "Precompiled":
            try:
                charsmap = base64.b64decode(step["precompiled_charsmap"], validate=True)
            except binascii.Error as error:
                raise CheckpointError(f"tokenizer.json: precompiled_charsmap: {error}") from error
        elif kind == "Metaspace":
            prefix = prefix or prepends(step)
        elif kind == "WhitespaceSplit" or step.get("pattern") == {"Regex": " {2,}"}:
            spaces = True
    return Normalizer(charsmap, prefix, spaces)


def _put_mask(tokenizer: Tokenizer, vocab: Vocab) -> None:
    text = tokenizer.named.get("mask", "")
    if text in tokenizer.added and tokenizer.added[text].id < len(vocab.tokens):
        number = tokenizer.added[text].id
        vocab.tokens[number] = text.encode("utf-8")
        vocab.scores[number] = 0.0
        vocab.types[number] = CONTROL
