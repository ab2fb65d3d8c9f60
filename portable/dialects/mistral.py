"""[TOOL_CALLS] and a list of calls, or since tokenizer v11 a name, [ARGS] and the arguments.

[TOOL_CALLS][{"name": …, "arguments": {…}, "id": …}]
[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}[TOOL_CALLS]…
Source: Mistral's chat templates, and mistral-common's tokenizers.
"""

from __future__ import annotations

import hashlib
import re

from portable.dialects.calls import json_calls, named_call
from portable.dialects.dialect import Dialect, Form, Message, Shown, Tool, by_template
from portable.dialects.parser import NotACall, Parser, Steps

_CALLS, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_ITS_ID = re.compile(r"[a-zA-Z0-9]{9}")


class Mistral(Parser):
    def read(self) -> Steps:
        while at := (yield from self.until(_CALLS)):
            at = yield from self.blanks(at)
            if (yield from self.peek(at)) == "[":
                yield from json_calls(self, at)
            else:
                yield from self._named(at)

    def _named(self, at: int) -> Steps:
        end = yield from self.word(at)
        name, at = self.text[at:end], end
        try:
            if (yield from self.follows(_ID, at)):
                at = yield from self.find(_ARGUMENTS, at)
            at = yield from self.expect(_ARGUMENTS, at)
        except NotACall as none:
            self.tell(none.at)
            return
        yield from named_call(self, name, at)


def _show(messages: list[Message], tools: list[Tool]) -> Shown:
    """The templates accept only ids of nine letters and digits."""
    shown = [_with_its_ids(message) for message in messages]
    return by_template(shown, tools)


def _with_its_ids(message: Message) -> Message:
    message = dict(message)
    if "tool_call_id" in message:
        message["tool_call_id"] = _its_id(message["tool_call_id"])
    if "tool_calls" in message:
        calls = message["tool_calls"]
        message["tool_calls"] = [call | {"id": _its_id(call.get("id", ""))} for call in calls]
    return message


def _its_id(id: str) -> str:
    return id if _ITS_ID.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]


MISTRAL = Dialect(
    "mistral",
    Mistral,
    Form('{"name": "', '", "arguments": ', "}", ", ", f"{_CALLS}[", "]"),
    (_CALLS,),
    _show,
)
MISTRAL_V11 = Dialect(
    "mistral-v11",
    Mistral,
    Form(_CALLS, _ARGUMENTS, joint=""),
    (_CALLS, _ID, _ARGUMENTS),
    _show,
)
