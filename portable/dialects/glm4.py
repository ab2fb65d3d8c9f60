"""A function's name, a line's end and its arguments as the whole answer: GLM-4.

Source: the chat template of GLM-4-0414.
"""

from __future__ import annotations

from portable.dialects.calls import named_call
from portable.dialects.dialect import Dialect, Form
from portable.dialects.parser import Parser, Steps

_OBSERVATION = "<|observation|>"


class Glm4(Parser):
    def read(self) -> Steps:
        while True:
            start = yield from self.blanks(0)
            end = yield from self.word(start)
            name = self.text[start:end]
            if name not in self.functions or (yield from self.peek(end)) != "\n":
                break
            if not (yield from named_call(self, name, end)):
                break
        yield from self.rest()


GLM4 = Dialect("glm4", Glm4, Form("", "\n"), (_OBSERVATION,), stop=(_OBSERVATION,))
