"""Tools for models whose template knows none: told in the system message, called as Hermes does."""

from __future__ import annotations

import json
from typing import Any

from portable.dialects.dialect import Dialect, Message, Shown, Tool
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
    """With a system message that tells the tools."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    how = _HOW.format(tools=listed)
    if messages and messages[0]["role"] == "system":
        system = messages[0] | {"content": f"{messages[0]['content']}\n\n{how}"}
        return [system, *messages[1:]]
    return [{"role": "system", "content": how}, *messages]


def _plain(message: Message) -> Message:
    """A call or a result as text."""
    if message["role"] == "tool":
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": text, "results": True}
    calls = [_written(call["function"]) for call in message.get("tool_calls", ())]
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    said = [plain["content"]] if plain.get("content") else []
    return plain | {"content": "\n".join(said + calls)} if calls else plain


def _written(call: dict[str, Any]) -> str:
    form, arguments = HERMES.form, json.dumps(call["arguments"], ensure_ascii=False)
    return f"{form.begin}{call['name']}{form.middle}{arguments}{form.end}"


GENERIC = Dialect("generic", Hermes, HERMES.form, show=_show)
