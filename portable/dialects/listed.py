"""<|tool_call|>[{"name": …, "arguments": {…}}]: Phi-4-mini and Granite 3.

Source: the models' chat templates and cards.
"""

from __future__ import annotations

import json

from portable.dialects.calls import json_calls
from portable.dialects.dialect import (
    Dialect,
    Form,
    Message,
    Shown,
    Tool,
    by_template,
    with_calls_written,
)
from portable.dialects.parser import Parser, Steps

_BEGIN, _END = "<|tool_call|>", "<|/tool_call|>"
_CALL = ('{"name": "', '", "arguments": ', "}", ", ")
_PHI4 = Form(*_CALL, f"{_BEGIN}[", f"]{_END}")
_GRANITE3 = Form(*_CALL, f"{_BEGIN}[", "]")


class Listed(Parser):
    def read(self) -> Steps:
        while at := (yield from self.until(_BEGIN)):
            if (yield from json_calls(self, at)):
                yield from self.skip(_END)


def _in_system(messages: list[Message], tools: list[Tool]) -> Shown:
    """Phi-4's template reads tools from the system message, as JSON, and leaves out calls."""
    messages = [with_calls_written(_PHI4, message) for message in messages]
    if not tools:
        return messages, {}
    said = messages[0] if messages and messages[0]["role"] == "system" else None
    functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    system = {"role": "system", "content": "", **(said or {}), "tools": functions}
    return [system, *messages[1 if said else 0 :]], {}


def _with_calls(messages: list[Message], tools: list[Tool]) -> Shown:
    """Granite's template knows tools, but leaves out calls."""
    return by_template([with_calls_written(_GRANITE3, message) for message in messages], tools)


PHI4 = Dialect("phi4", Listed, _PHI4, (_BEGIN, _END), _in_system)
GRANITE3 = Dialect("granite3", Listed, _GRANITE3, (_BEGIN,), _with_calls)
