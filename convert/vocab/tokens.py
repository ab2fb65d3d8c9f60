"""The token list as a GGUF holds it, and the checks that keep llama.cpp from aborting on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from portable.errors import CheckpointError

BYTE_TOKEN = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

Keys = dict[str, Any]
MALFORMED = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)


@dataclass
class Vocab:
    """`keys` are written after the tokens, `leading` before the tokenizer's name."""

    model: str
    pre: str
    tokens: list[bytes]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    keys: Keys = field(default_factory=dict)
    leading: Keys = field(default_factory=dict)


@contextmanager
def trusting_nothing() -> Iterator[None]:
    """Tokenizer files nest deeply and everything in them may be of the wrong type: one error."""
    try:
        yield
    except BaseException as error:
        # What a panic in the tokenizers library becomes is no Exception, and has no name to import.
        if not isinstance(error, MALFORMED) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"the tokenizer files are malformed ({type(error).__name__}: {error})"[:200],
            hint="download the tokenizer files again",
        ) from error


def looks_special(token: str) -> bool:
    """Tokens that steer a model although their files call them ordinary."""
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<｜") and token.endswith("｜>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def check(vocab: Vocab, size: int) -> None:
    """Refuses what makes llama.cpp abort at load: a wrong count, a token twice, a lost id."""
    if len(vocab.tokens) != size:
        raise CheckpointError(
            f"the tokenizer has {len(vocab.tokens)} tokens, but the embedding has {size} rows",
            hint="config.json and the tokenizer files are of different models",
        )
    if len(set(vocab.tokens)) < size:
        seen: set[bytes] = set()
        twice = next(t for t in vocab.tokens if t in seen or seen.add(t))  # type: ignore[func-returns-value]
        raise CheckpointError(f"the tokenizer has two tokens {twice.decode('utf-8', 'replace')!r}")
    for key, value in vocab.keys.items():
        if key.endswith("_token_id") and not 0 <= value < size:
            raise CheckpointError(f"{key} is {value}, but there are {size} tokens")
    if vocab.model in ("bert", "t5"):
        _check_frame(vocab)
    _check_bytes(vocab)


def _check_bytes(vocab: Vocab) -> None:
    """llama.cpp reads a byte token's number from its text, and ends without a token for a byte."""
    for token, kind in zip(vocab.tokens, vocab.types, strict=True):
        if kind == BYTE and not BYTE_TOKEN.fullmatch(token):
            raise CheckpointError(f"the tokenizer calls {token[:60]!r} a byte token")
    known = set(vocab.tokens) if vocab.model == "llama" else set()
    lost = [b for b in range(256) if not {b"<0x%02X>" % b, bytes([b])} & known]
    if known and lost:
        raise CheckpointError(
            f"the tokenizer has no token for the byte {lost[0]} ({len(lost)} in all), "
            "which llama.cpp needs",
            hint="download the tokenizer files again",
        )


def _check_frame(vocab: Vocab) -> None:
    """llama.cpp frames every text of an encoder, by default with ids of a vocabulary of 30,522."""
    for name, shown in (("bos", "CLS"), ("eos", "SEP"), ("seperator", "SEP"), ("unknown", "UNK")):
        if f"tokenizer.ggml.{name}_token_id" not in vocab.keys:
            raise CheckpointError(
                f"the tokenizer files name no [{shown}] token", hint="download tokenizer.json again"
            )


def reversed_vocab(by_token: Mapping[str, int], size: int) -> dict[int, str]:
    """Token of each id; CheckpointError for an id that the embedding has no row for."""
    out: dict[int, str] = {}
    for token, number in by_token.items():
        if type(number) is not int or not 0 <= number < size:
            raise CheckpointError(
                f"token {token!r:.60} has id {number!r:.20}, but the embedding has {size} rows",
                hint="config.json and the tokenizer files are of different models",
            )
        out[number] = token
    return out
