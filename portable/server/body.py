"""A request's body -> the struct that its endpoint reads; strictly, if that is wished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from portable.errors import InvalidRequest
from portable.server.state import State
from portable.server.wire.parse import parse

T = TypeVar("T", bound=msgspec.Struct)


async def read_body(request: Request, kind: type[T]) -> T:
    """The body, checked. Raises InvalidRequest, BodyTooLarge, or ClientDisconnect."""
    state: State = request.app.state.portable
    body = await request.body()
    asked = parse(body, kind)
    if state.config.strict and (unknown := list(unread(msgspec.json.decode(body), asked))):
        raise InvalidRequest(
            f"fields that this server does not know: {', '.join(unknown[:20])}",
            hint="leave them out, or start the server without --strict",
            param=unknown[0],
        )
    return asked


def unread(given: Any, struct: Any, path: str = "") -> Iterator[str]:
    """Paths of what the JSON has and the struct, or one inside it, does not.

    Except what the struct has `ignored`: fields that change nothing here.
    """
    if isinstance(struct, msgspec.Struct) and isinstance(given, dict):
        known = (struct.__struct_config__.tag_field, *getattr(struct, "ignored", ()))
        names = dict(zip(struct.__struct_encode_fields__, struct.__struct_fields__))
        for key, value in given.items():
            if key in names:
                yield from unread(value, getattr(struct, names[key]), f"{path}{key}.")
            elif value is not None and key not in known:
                yield path + key
    elif isinstance(struct, list) and isinstance(given, list):
        for at, (value, item) in enumerate(zip(given, struct)):
            yield from unread(value, item, f"{path.removesuffix('.')}[{at}].")
