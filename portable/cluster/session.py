"""Which conversation a request belongs to, told from its head and its body. Pure; knows no Ray."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import msgspec

HEADER: Final = "x-session-id"  # what Ray Serve calls it, too
_DIGITS = 16
_RESPONSE_ID = re.compile(rf"resp_([0-9a-f]{{{_DIGITS}}})[0-9a-f]{{32}}")
_RESPONSES = re.compile(r"(?:/v1)?/responses(?:/([^/]+))?")


@dataclass(frozen=True, slots=True)
class Session:
    """`key` is the same for all turns of a conversation; empty: any replica will do.

    A session that is `bound` has something on its replica that no other one has: a response that
    was stored, or will be. It waits for that replica, however busy it is.
    """

    key: str = ""
    bound: bool = False


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    """What tells conversations apart, in the requests of all APIs. The rest is not even parsed."""

    model: msgspec.Raw = msgspec.Raw()
    messages: list[_Message] = []
    system: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    input: list[_Message] | str | None = None
    prompt: msgspec.Raw = msgspec.Raw()
    prompt_cache_key: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None


_decode = msgspec.json.Decoder(_Body).decode
_PREFIX = 256  # bytes of a bare prompt that make it the same conversation


def session(path: str, headers: Mapping[str, str], body: bytes) -> Session:
    """The session of a request.

    It is what the client calls it, in the header `x-session-id` or in OpenAI's
    `prompt_cache_key`; else a conversation is known by its beginning: the model, the system's
    words and the first message of the user. OpenAI's `user` tells nothing: gateways send one for
    all. What cannot be read belongs to none: the server says what is wrong with it.
    """
    responses = _RESPONSES.fullmatch(path.removesuffix("/input_tokens"))
    try:
        asked = _decode(body) if body else _Body()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Session()
    if responses:
        known = _RESPONSE_ID.fullmatch(responses[1] or asked.previous_response_id or "")
        if known:
            return Session(known[1], bound=True)
    said = headers.get(HEADER) or asked.prompt_cache_key
    if not responses:
        asked.input = None  # texts to embed: no conversation
    key = _digest(said.encode()) if said else _beginning(asked)
    return Session(key, bound=bool(responses and key and asked.store is not False))


def _beginning(asked: _Body) -> str:
    """The key of a conversation that has no name; empty for what is none."""
    turns = asked.messages or (asked.input if isinstance(asked.input, list) else [])
    # What comes before the first answer never changes in later turns.
    first = next((at for at, turn in enumerate(turns, 1) if turn.role == "user"), 0)
    parts: list[Any] = [(turn.role, bytes(turn.content)) for turn in turns[:first]]
    if isinstance(asked.input, str):
        parts.append(asked.input)
    elif prompt := bytes(asked.prompt):
        parts.append(prompt[:_PREFIX])
    if not parts:
        return ""
    shared = [bytes(asked.model), bytes(asked.system), bytes(asked.instructions)]
    return _digest(msgspec.json.encode([shared, parts]))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGITS // 2).hexdigest()
