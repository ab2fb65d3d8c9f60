"""Tools -> the grammar of an answer that calls them, in Lark.

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re

from portable.dialects.dialect import Dialect
from portable.dialects.toolbox import Toolbox
from portable.engine.sequence import Grammar

_MOST = 16  # calls in one answer, where several are asked for: small models do not stop
# As the engine has it for answers in JSON.
_BLANKS = {"whitespace_pattern": r"[ \n\t]{0,20}"}


def grammar(dialect: Dialect, toolbox: Toolbox, other: str = "") -> Grammar:
    """One call, or several if the toolbox allows it; or `other`, an answer of that JSON schema.

    Errors name the tool that they are about: `tools[2].function.parameters`.
    """
    form, functions = dialect.form, toolbox.functions
    tools = [(at, t) for at, t in enumerate(toolbox.tools) if t["function"]["name"] in functions]

    def quoted(text: str) -> str:
        return _quoted(text, dialect.control)

    named = " | ".join(
        f"{quoted(tool['function']['name'] + form.middle)} arguments_{at}" for at, tool in tools
    )
    more = ""
    if toolbox.several and form.joint is not None:
        more = f"({quoted(form.joint)} call){{0,{_MOST - 1}}}"
    rules = [
        # Between thoughts and calls the templates write two line ends.
        'start: "\\n\\n"? (calls | other)' if other else 'start: "\\n\\n"? calls',
        f"calls: {quoted(form.opening)} call {more} {quoted(form.closing)}",
        f"call: {quoted(form.begin)} ({named}) {quoted(form.end)}",
    ]
    places = ["tools"] * len(rules)
    if other:
        rules.append(f"other: %json {json.dumps(json.loads(other) | {'x-guidance': _BLANKS})}")
        places.append("response_format")
    for at, tool in tools:
        own = dialect.arguments(f"arguments_{at}", tool["function"])
        rules += own
        places += [f"tools[{at}].function.parameters"] * len(own)
    return Grammar("lark", "\n".join(rules), "tools", dialect.control, tuple(places))


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
