"""Tool calls as JSON, told as they come: {"name": "now", "arguments": {"zone": "UTC"}}.

From the arguments on it is a call, whatever comes; what does not get so far is content.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from portable.dialects.parser import Found, NotACall, Parser, Steps
from portable.dialects.scan import Value

_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class _Head:
    """A call's name, and the place where its arguments begin or, if they are known, end."""

    name: str
    at: int
    arguments: str | None = None


def json_call(parser: Parser, at: int) -> Found:
    """The call whose object comes at this place."""
    try:
        head = yield from _head(parser, at)
    except NotACall as none:
        parser.tell(none.at)
        return False
    parser.begin_call(head.name)
    parser.drop(head.at)
    if head.arguments is not None:
        parser.argue(head.arguments)
    else:
        yield from _arguments(parser)
        yield from _rest(parser)
    return True


def named_call(parser: Parser, name: str, at: int) -> Found:
    """The call of this name whose arguments alone come at this place."""
    at = yield from parser.blanks(at)
    if name not in parser.functions or (yield from parser.peek(at)) != "{":
        parser.tell(at)
        return False
    parser.begin_call(name)
    parser.drop(at)
    yield from _arguments(parser)
    return True


def json_calls(parser: Parser, at: int) -> Found:
    """The list of calls that comes at this place: [{…}, {…}]. Whether there was one."""
    try:
        at = yield from parser.expect("[", at)
    except NotACall as none:
        parser.tell(none.at)
        return False
    found = False
    while (yield from json_call(parser, at)):
        found, at = True, 0
        if not (yield from parser.skip(",")):
            yield from parser.skip("]")
            break
    return found


def _head(parser: Parser, at: int) -> Generator[None, None, _Head]:
    name, arguments = "", "{}"
    at = yield from parser.expect("{", at)
    while True:
        key, at = yield from _key(parser, at)
        if key in _ARGUMENTS and name and (yield from parser.peek(at)) == "{":
            return _Head(name, at)
        end = yield from parser.value(at)
        text = parser.text[at:end]
        if key == "name":
            name = str(_decoded(text))
            if name not in parser.functions:
                raise NotACall(end)
        elif key in _ARGUMENTS:
            arguments = _object(text)
        at = yield from parser.blanks(end)
        if (yield from parser.peek(at)) != ",":
            break
        at += 1
    at = yield from parser.expect("}", at)
    if not name:
        raise NotACall(at)
    return _Head(name, at, arguments)


def _key(parser: Parser, at: int) -> Generator[None, None, tuple[Any, int]]:
    """A member's name, and where its value begins. Raises NotACall."""
    at = yield from parser.blanks(at)
    if (yield from parser.peek(at)) != '"':
        raise NotACall(at)
    end = yield from parser.value(at)
    key = _decoded(parser.text[at:end])
    at = yield from parser.expect(":", end)
    return key, (yield from parser.blanks(at))


def _arguments(parser: Parser) -> Steps:
    """The object that comes next, told as it comes."""
    value = Value()
    while True:
        end = value.feed(parser.text)
        parser.argue(parser.text[:end])
        parser.drop(end)
        if value.done or parser.ended:
            return
        yield


def _rest(parser: Parser) -> Steps:
    """What follows the arguments in a call's object, such as an id."""
    while (yield from parser.skip(",")):
        try:
            _, at = yield from _key(parser, 0)
            parser.drop((yield from parser.value(at)))
        except NotACall:
            return
    yield from parser.skip("}")


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(text: str) -> str:
    """Arguments that came whole: an object, one that is written in a string, or none at all."""
    value = _decoded(text)
    if value is None:
        return "{}"
    return value if isinstance(value, str) and isinstance(_decoded(value), dict) else text
