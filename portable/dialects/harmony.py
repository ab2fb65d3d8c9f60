"""Channels: thoughts in `analysis`, calls in `commentary to=functions.name`, the rest is content.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…
Source: gpt-oss's chat template and https://github.com/openai/harmony.
"""

from __future__ import annotations

import re

from portable.dialects.calls import named_call
from portable.dialects.dialect import Dialect, Form, Message, Shown, Tool, by_template
from portable.dialects.parser import NotACall, Parser, Steps

_MESSAGE, _END = "<|message|>", "<|end|>"
_CONTROL = ("<|start|>", "<|channel|>", "<|constrain|>", _MESSAGE, _END)
_TO = re.compile(r"to=functions\.([\w.-]+)")


class Harmony(Parser):
    def read(self) -> Steps:
        while not self.ended or self.text:
            try:
                at = yield from self.find(_MESSAGE, 0)
            except NotACall as none:
                self._tell_odd(none.at)
                continue
            yield from self._message(self.text[:at], at + len(_MESSAGE))

    def _message(self, header: str, at: int) -> Steps:
        """The message behind a header that is `at` characters long."""
        to = _TO.search(header)
        if to and (yield from named_call(self, to[1], at)):
            return
        if not to:
            self.drop(at)
        thinks = "analysis" in header
        self.drop((yield from self.until(_END, self.think if thinks else self.tell)))

    def _tell_odd(self, count: int) -> None:
        """A header that was cut says nothing; what is none is content."""
        if self.ended and self.text.lstrip().startswith(("<|start|>", "<|channel|>")):
            self.drop(len(self.text))
        self.tell(count)


def _show(messages: list[Message], tools: list[Tool]) -> Shown:
    """As the template has it: thoughts are `thinking`, beside a call there is no content, and
    each tool has a description.
    """
    tools = [tool | {"function": {"description": "", **tool["function"]}} for tool in tools]
    shown = []
    for message in messages:
        message = dict(message)
        if thought := message.pop("reasoning_content", None):
            message["thinking"] = thought
            if "tool_calls" in message:
                message["content"] = ""
        shown.append(message)
    return by_template(shown, tools)


HARMONY = Dialect(
    "harmony",
    Harmony,
    Form("<|channel|>commentary to=functions.", f" <|constrain|>json{_MESSAGE}"),
    _CONTROL,
    _show,
)
