"""A text as chunks of tokens of equal length, cut as llama.cpp's tools cut it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from portable.errors import UsageError

# Some 16 million tokens, whose numbers Python keeps in half a gigabyte.
MAX_TEXT = 64 << 20
# (bytes of the text done, bytes in all)
Report = Callable[[int, int], None]


def silent(_done: int, _all: int) -> None:
    """The report that shows nothing."""


def read_text(path: Path, limit: int | None = None, context: int = 512) -> str:
    """A text file, of which at most `limit` chunks of `context` tokens are to be read.

    Raises UsageError where it cannot be read, is not UTF-8, is larger than any need or too short
    for one chunk whatever the vocabulary, and for a limit below 1.
    """
    _check_limit(limit)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
        if len(data) > MAX_TEXT:
            raise UsageError(f"{path} has more than {MAX_TEXT >> 20} MB", hint="use a part of it")
        if len(data) + 2 < context:  # a token is a byte or more, but for a start and a space before
            raise UsageError(
                f"{path} has {len(data)} bytes, and one chunk takes {context} tokens",
                hint="use a longer text",
            )
        return data.decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name a text file") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8: byte {error.start}", hint="name a plain text file"
        ) from None


def cut(tokens: list[int], context: int, limit: int | None, start: int | None) -> list[list[int]]:
    """Whole chunks of `context` tokens, at most `limit`; what is left of the text is not used.

    `start`, where the model wants a token before every text, takes the place of each chunk's first.
    Raises UsageError for a text of less than one chunk.
    """
    _check_limit(limit)
    count = min(len(tokens) // context, limit or len(tokens))
    if not count:
        raise UsageError(
            f"the text has {len(tokens)} tokens, and one chunk takes {context}",
            hint="use a longer text",
        )
    parts = [tokens[at : at + context] for at in range(0, count * context, context)]
    if start is not None:
        for part in parts:
            part[0] = start
    return parts


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} chunks", hint="one or more")
