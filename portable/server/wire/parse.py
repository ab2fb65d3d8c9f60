"""A body -> the struct it should be; errors name the field, or the line and column."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from portable.errors import InvalidRequest

T = TypeVar("T")
_INVALID_AT = re.compile(r" - at (`key` in )?`\$?\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
_BYTE = re.compile(r"\(byte (\d+)\)")


def parse(body: bytes, kind: type[T]) -> T:
    """A request from its JSON. Raises InvalidRequest with the field's path, or line and column."""
    try:
        body.decode("utf-8")  # also where nobody will look
        with _uncollected():
            return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error)) from None
    except msgspec.DecodeError as error:
        raise _invalid_json(body, str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: of a million small lists it looks at each again and again."""
    # 8 MiB of `[1],` take seconds with it and a few tenths without, and hold up everybody.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _invalid_field(text: str) -> InvalidRequest:
    at = _INVALID_AT.search(text)
    path = at["path"].removesuffix("[...]") if at else ""
    missing = _MISSING.search(text)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
    reason = text[: at.start()] if at else text
    return InvalidRequest(f"{path or 'the body'}: {reason}", param=path or None)


def _invalid_json(body: bytes, text: str) -> InvalidRequest:
    """Line and column of the first byte that is wrong, and the usual cause if it is one."""
    found = _BYTE.search(text)
    at = int(found[1]) if found else len(body)
    before = body[:at].decode("utf-8", "replace")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    rest = body[at : at + 200].decode("utf-8", "replace").splitlines()[:1]
    hint = ""
    if rest and rest[0].startswith(("#", "//")):
        hint = f"JSON has no comments: remove `{rest[0].rstrip()}`"
    reason = _BYTE.sub("", text.removeprefix("JSON is malformed: ")).strip()
    return InvalidRequest(
        f"the body is not valid JSON: {reason}, line {line} column {column}", hint=hint
    )
