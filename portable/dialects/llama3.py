"""{"name": …, "parameters": {…}} as the whole answer: Llama 3.1 to 3.3.

Llama 3.1 may begin it with the control token <|python_tag|>. Source: Meta's chat templates.
"""

from __future__ import annotations

from portable.dialects.calls import json_call
from portable.dialects.dialect import Dialect, Form
from portable.dialects.parser import Parser, Steps

_TAG = "<|python_tag|>"


class Llama3(Parser):
    def read(self) -> Steps:
        while True:
            at = yield from self.blanks(0)
            if (yield from self.follows(_TAG, at)):
                at += len(_TAG)
            elif (yield from self.peek(at)) != "{":
                break
            if not (yield from json_call(self, at)):
                break
            yield from self.skip(";")
        yield from self.rest()


# Its template refuses a history with more than one call at once.
LLAMA3 = Dialect("llama3", Llama3, Form('{"name": "', '", "parameters": ', "}"), (_TAG,))
