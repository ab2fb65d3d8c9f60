"""SentencePiece vocabularies (Llama 2, Mistral) -> GGUF's `llama` tokenizer, without that package.

`tokenizer.model` is a protobuf of which three fields of each piece are needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from convert.checkpoint import Checkpoint
from convert.vocab.special import Special
from convert.vocab.tokenizer_json import Tokenizer, flattened, prepends
from convert.vocab.tokens import (
    BYTE,
    BYTE_TOKEN,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocab,
    looks_special,
    reversed_vocab,
)
from portable.errors import CheckpointError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
# Whether a space is put before a text: llama.cpp does so unless a file says no.
PREFIX = "tokenizer.ggml.add_space_prefix"


def read_model(checkpoint: Checkpoint, size: int, by_flag: bool = False) -> Vocab:
    """From tokenizer.model, with added_tokens.json and tokenizer_config.json over it.

    `by_flag`: only their flag makes tokens control tokens, and tokenizer.json has the last word.
    """
    found = list(pieces(checkpoint.data("tokenizer.model") or b""))[:size]
    pad = range(len(found), size)
    vocab = Vocab(
        "llama",
        "default",
        [piece for piece, _, _ in found] + [f"[PAD{i}]".encode() for i in pad],
        # sentencepiece calls a user-defined piece neither control nor unused: normal, then.
        [NORMAL if kind == USER_DEFINED else kind for _, _, kind in found] + [UNUSED for _ in pad],
        [score for _, score, _ in found] + [-10000.0 for _ in pad],
    )
    for text, number in (checkpoint.json("added_tokens.json") or {}).items():
        _put(vocab, number, text, USER_DEFINED)
    settings = checkpoint.json("tokenizer_config.json") or {}
    for number, entry in (settings.get("added_tokens_decoder") or {}).items():
        _put_entry(vocab, int(number), entry, by_flag)
    if by_flag:
        for entry in (checkpoint.json("tokenizer.json") or {}).get("added_tokens") or []:
            _put_entry(vocab, entry["id"], entry, by_flag)
    vocab.keys = Special(checkpoint, size).keys()
    return vocab


def read_tokenizer_json(tokenizer: Tokenizer, size: int) -> Vocab:
    """From tokenizer.json. llama.cpp merges by score, so a piece's score is its merge's rank.

    llama.cpp's own converter gives all pieces one score here and so splits text differently from
    the tokenizer; docs/CONVERT.md names this as one of the differences.
    """
    by_id, found = reversed_vocab(tokenizer.whole_vocab(), size), tokenizer.json
    scores = merge_scores(tokenizer)
    vocab = Vocab("llama", "default", [], [], [])
    for number in range(size):
        text = by_id.get(number)
        vocab.tokens.append((f"[PAD{number}]" if text is None else text).encode("utf-8"))
        vocab.types.append(_type(text))
        vocab.scores.append(scores.get(text or "", -1000.0))
    put_added(vocab, tokenizer)
    vocab.keys = Special(tokenizer.checkpoint, size).keys()
    steps = [*flattened(found.get("normalizer")), *flattened(found.get("pre_tokenizer"))]
    if not any(map(prepends, steps)):
        vocab.leading[PREFIX] = False
    return vocab


def put_added(vocab: Vocab, tokenizer: Tokenizer) -> None:
    """Added tokens over the pieces, as `read_model` puts them."""
    for token in tokenizer.added.values():
        entry = {"content": token.content, "special": token.special}
        _put_entry(vocab, token.id, entry, by_flag=False)


def adds_prefix(data: bytes) -> bool:
    """Whether a tokenizer.model puts a space before the text: its normalizer's third field."""
    normalizer = next((value for field, value in fields(data) if field == 3), b"")
    return bool(dict(fields(normalizer)).get(3, True))


def merge_scores(tokenizer: Tokenizer) -> dict[str, float]:
    """0 for the piece that is merged first, then falling."""
    scores: dict[str, float] = {}
    for rank, entry in enumerate(tokenizer.model.get("merges") or []):
        piece = entry.replace(" ", "") if isinstance(entry, str) else "".join(entry)
        scores.setdefault(piece, -float(rank))
    return scores


def _type(text: str | None) -> int:
    """Of a piece; added tokens are put over them."""
    if text is None:
        return UNUSED
    return BYTE if BYTE_TOKEN.fullmatch(text.encode("utf-8")) else NORMAL


def _put_entry(vocab: Vocab, number: Any, entry: dict[str, Any], by_flag: bool) -> None:
    """An added token of tokenizer_config.json or tokenizer.json."""
    text: str = entry["content"]
    control = entry.get("special") or (not by_flag and looks_special(text))
    if not control and not by_flag:
        text = text.replace("▁", " ")
    _put(vocab, number, text, CONTROL if control else USER_DEFINED)


def _put(vocab: Vocab, number: Any, text: str, kind: int) -> None:
    """An id beyond the embedding is ignored: such files exist and work."""
    if type(number) is int and 0 <= number < len(vocab.tokens):
        vocab.tokens[number] = text.encode("utf-8")
        vocab.types[number] = kind
        vocab.scores[number] = -1000.0


def pieces(data: bytes) -> Iterator[tuple[bytes, float, int]]:
    """(piece, score, type) of each piece of a ModelProto, which ends with how it was trained."""
    last = 0
    try:
        for last, value in fields(data):
            if last == 1 and isinstance(value, bytes):
                entry: dict[int, Any] = {1: b"", 2: b"\0\0\0\0", 3: NORMAL}
                entry |= dict(fields(value))
                yield entry[1], struct.unpack("<f", entry[2])[0], entry[3]
    except (IndexError, struct.error, TypeError) as error:
        raise _broken() from error
    if last < 2:
        raise _broken()


def _broken() -> CheckpointError:
    return CheckpointError(
        "tokenizer.model is not a whole SentencePiece model", hint="download this file again"
    )


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: int | bytes
        if kind == VARINT:
            value, at = _varint(data, at)
        else:
            count = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
            if kind == LENGTH:
                count, at = _varint(data, at)
            elif not count:
                raise IndexError(f"wire type {kind}")
            value = data[at : at + count]
            at += count
            if at > len(data):
                raise IndexError("cut short")
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


__all__ = ["UNKNOWN", "read_model", "read_tokenizer_json"]
