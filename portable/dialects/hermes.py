"""<tool_call>{"name": …, "arguments": {…}}</tool_call>: Hermes, Qwen2.5, Qwen3, SmolLM3, Granite 4.

Source: the models' chat templates.
"""

from __future__ import annotations

from portable.dialects.calls import json_call
from portable.dialects.dialect import Dialect, Form
from portable.dialects.parser import Parser, Steps


class Hermes(Parser):
    def read(self) -> Steps:
        while at := (yield from self.until("<tool_call>")):
            if (yield from json_call(self, at)):
                yield from self.skip("</tool_call>")


HERMES = Dialect(
    "hermes",
    Hermes,
    Form('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", joint="\n"),
)
