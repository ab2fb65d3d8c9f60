"""A field that holds a text, texts, token ids, or lists of them, as OpenAI's clients send it."""

from __future__ import annotations

from typing import Any

from portable.errors import InvalidRequest

_MAX_ID = 1 << 31


def read_texts(given: str | list[Any], field: str, most: int) -> list[str | list[int]]:
    """Each text by itself. Raises InvalidRequest for anything else, and for more than `most`."""
    if isinstance(given, str) or _are_ids(given):
        return [given]
    if not 1 <= len(given) <= most:
        raise InvalidRequest(f"{field}: 1 to {most} texts, not {len(given)}", param=field)
    for at, text in enumerate(given):
        if not (isinstance(text, str) or _are_ids(text)):
            path = f"{field}[{at}]"
            raise InvalidRequest(f"{path}: a text, or a list of token ids", param=path)
    return given


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_ID
