"""Tools for models whose template knows none: told in the first message, called as Hermes does."""

from __future__ import annotations

import json

from portable.dialects.dialect import Dialect, Message, Shown, Tool, with_calls_written
from portable.dialects.hermes import HERMES, Hermes

_HOW = """# Tools

You may call these functions to help with the user's request, one JSON schema a line:
{tools}

To call a function, write only this, with its name and arguments as JSON:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
The result comes in the next message. Answer without a call if you need none."""


def _show(messages: list[Message], tools: list[Tool]) -> Shown:
    """All as plain text, which any template takes."""
    shown: list[Message] = []
    for message in messages:
        plain = _plain(message)
        if message["role"] == "tool" and shown and shown[-1].get("results"):
            shown[-1]["content"] += f"\n{plain['content']}"
        else:
            shown.append(plain)
    for message in shown:
        message.pop("results", None)
    return _told(shown, tools) if tools else shown, {}


def _told(messages: list[Message], tools: list[Tool]) -> list[Message]:
    """With the tools told first: some templates refuse a system message, none the user's."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    how = _HOW.format(tools=listed)
    first = messages[0]
    texts = (first["content"], how) if first["role"] == "system" else (how, first["content"])
    return [first | {"content": "\n\n".join(texts)}, *messages[1:]]


def _plain(message: Message) -> Message:
    """A call or a result as text."""
    if message["role"] == "tool":
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": text, "results": True}
    return with_calls_written(HERMES.form, message)


GENERIC = Dialect("generic", Hermes, HERMES.form, show=_show, stop=("<tool_response>",))
