"""DeepSeek's calls: a name and its arguments between tokens of their own.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name\n```json\n{…}\n```<｜tool▁call▁end｜>
…<｜tool▁calls▁end｜>; since V3.1 <｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>.
Source: the models' chat templates.
"""

from __future__ import annotations

from portable.dialects.calls import named_call
from portable.dialects.dialect import Dialect, Form
from portable.dialects.parser import Found, NotACall, Parser, Steps

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR, _FENCE = "<｜tool▁sep｜>", "```json"


class DeepSeek(Parser):
    def read(self) -> Steps:
        while at := (yield from self.until(_CALLS)):
            called = yield from self._call(at)
            while called and (yield from self._another()):
                called = yield from self._call(0)
            if called:
                yield from self.skip(_CALLS_END)

    def _another(self) -> Found:
        return (yield from self.follows(_CALL, (yield from self.blanks(0))))

    def _call(self, at: int) -> Found:
        try:
            start = yield from self.expect(_CALL, at)
            end = yield from self.find(_SEPARATOR, start)
            at = yield from self.blanks(end + len(_SEPARATOR))
            if (yield from self.peek(at)) != "{":
                start, end = at, (yield from self.word(at))
                at = yield from self.expect(_FENCE, end)
        except NotACall as none:
            self.tell(none.at)
            return False
        called = yield from named_call(self, self.text[start:end], at)
        if called:
            yield from self.skip("```")
            yield from self.skip(_CALL_END)
        return called


DEEPSEEK = Dialect(
    "deepseek",
    DeepSeek,
    Form(
        f"{_CALL}function{_SEPARATOR}",
        f"\n{_FENCE}\n",
        f"\n```{_CALL_END}",
        "\n",
        _CALLS,
        _CALLS_END,
    ),
    (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEPARATOR),
)
DEEPSEEK_V31 = Dialect(
    "deepseek-v3.1",
    DeepSeek,
    Form(_CALL, _SEPARATOR, _CALL_END, "", _CALLS, _CALLS_END),
    DEEPSEEK.control,
)
