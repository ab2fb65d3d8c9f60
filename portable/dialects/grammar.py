"""Tools -> the grammar of an answer that calls them, in Lark.

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re

from portable.dialects.dialect import Dialect, Tool
from portable.engine.sequence import Grammar


def grammar(dialect: Dialect, tools: list[Tool], *, several: bool) -> Grammar:
    """One call of one of the tools, or with `several` at least one.

    Its errors name the tool they are about: `tools[2].function.parameters`.
    """
    form, control = dialect.form, dialect.control
    named = " | ".join(
        f"{_quoted(tool['function']['name'] + form.middle, control)} arguments_{at}"
        for at, tool in enumerate(tools)
    )
    more = f"({_quoted(form.joint, control)} call)*" if several and form.joint is not None else ""
    rules = [
        # Between thoughts and calls the templates write two line ends.
        f'start: "\\n\\n"? {_quoted(form.opening, control)} call {more} '
        + _quoted(form.closing, control),
        f"call: {_quoted(form.begin, control)} ({named}) {_quoted(form.end, control)}",
    ]
    places = ["tools"] * len(rules)
    for at, tool in enumerate(tools):
        own = dialect.arguments(f"arguments_{at}", tool["function"])
        rules += own
        places += [f"tools[{at}].function.parameters"] * len(own)
    return Grammar("lark", "\n".join(rules), "tools", control, tuple(places))


def _quoted(text: str, control: tuple[str, ...]) -> str:
    """A text in Lark; where it names a control token, the rule that the engine makes of that."""
    names = "|".join(map(re.escape, control))
    parts = re.split(f"({names})", text) if control else [text]
    return " ".join(
        f"control_{control.index(part)}"
        if part in control
        else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )
