"""What a dialect is: how a model is shown tools, how it writes calls, and what reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from portable.dialects.parser import Parser
from portable.dialects.schema import Function, json_rules

Message = dict[str, Any]
Tool = dict[str, Any]  # as OpenAI writes it: {"type": "function", "function": {"name": …}}
Shown = tuple[list[Message], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Form:
    """What stands around the names and arguments of calls.

    A call is `begin`, name, `middle`, arguments, `end`; several calls have `joint` between them, or
    there is only one if that is None; `opening` and `closing` are around all. Which parts of these
    texts are control tokens says `Dialect.control`.
    """

    begin: str
    middle: str
    end: str = ""
    joint: str | None = None
    opening: str = ""
    closing: str = ""


def written(form: Form, calls: list[dict[str, Any]]) -> str:
    """Calls as the model writes them, for templates that have no place for them."""
    functions = [call["function"] for call in calls]
    texts = (
        form.begin
        + function["name"]
        + form.middle
        + json.dumps(function["arguments"], ensure_ascii=False)
        + form.end
        for function in functions
    )
    return form.opening + (form.joint or "").join(texts) + form.closing


def with_calls_written(form: Form, message: Message) -> Message:
    """The message with its calls in its content."""
    plain = dict(message)
    if calls := plain.pop("tool_calls", None):
        said = [plain["content"]] if plain.get("content") else []
        plain["content"] = "\n".join([*said, written(form, calls)])
    return plain


def by_template(messages: list[Message], tools: list[Tool]) -> Shown:
    """For templates that know `tools`."""
    return messages, {"tools": tools} if tools else {}


@dataclass(frozen=True, slots=True)
class Dialect:
    """`reader` gets the functions on offer: their parameters by their names.

    `control` are control tokens, which otherwise have no text, that the reader wants to see.
    `show` makes of messages and tools what the template gets: messages, and its options.
    `arguments` makes a function's parameters into Lark rules, the first one of the given name.
    `stop` are texts that end an answer: what models write on with that invent a call's result.
    """

    name: str
    reader: type[Parser]
    form: Form
    control: tuple[str, ...] = ()
    show: Callable[[list[Message], list[Tool]], Shown] = by_template
    arguments: Callable[[str, Function], list[str]] = json_rules
    stop: tuple[str, ...] = ()
