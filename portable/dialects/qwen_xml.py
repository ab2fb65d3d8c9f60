"""<function=name><parameter=key>value</parameter></function> in <tool_call>: Qwen3-Coder, Qwen3.5.

Texts stand there as they are, other values as JSON; what is a text says the function's schema.
Source: the models' chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from portable.dialects.dialect import Dialect, Form
from portable.dialects.parser import NotACall, Parser, Steps
from portable.dialects.schema import Function, embedded, parameters

_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_NOTHING = '""'
# As some models write what they learned from Python.
_PYTHON = {"True": "true", "False": "false", "None": "null"}


class QwenXml(Parser):
    def read(self) -> Steps:
        while at := (yield from self.until(_CALL)):
            try:
                start = yield from self.expect(_FUNCTION, at)
                end = yield from self.find(">", start)
                name = self.text[start:end]
                if name not in self.functions:
                    raise NotACall(end)
            except NotACall as none:
                self.tell(none.at)
                continue
            self.begin_call(name)
            self.drop(end + 1)
            yield from self._parameters(_properties(self.functions[name]))
            yield from self.skip(_FUNCTION_END)
            yield from self.skip(_CALL_END)

    def _parameters(self, known: Mapping[str, Mapping[str, Any]]) -> Steps:
        self.argue("{")
        joint = ""
        while (yield from self.skip(_PARAMETER)):
            try:
                end = yield from self.find(">", 0)
            except NotACall:
                break
            key = self.text[:end]
            self.drop(end + 1)
            self.argue(f"{joint}{json.dumps(key, ensure_ascii=False)}: ")
            yield from self._value(_is_text(known.get(key, {})))
            joint = ", "
        self.argue("}")

    def _value(self, text: bool) -> Steps:
        """One value up to its end, without the line ends that the template puts around it."""
        parts: list[str] = []

        def keep(count: int) -> None:
            part = self.text[:count]
            self.drop(count)
            if text:
                self.argue(_escaped(part))
            else:
                parts.append(part)

        if (yield from self.peek(0)) == "\n":
            self.drop(1)
        if text:
            self.argue('"')
        at = yield from self.until(_PARAMETER_END, keep)
        blanks = self.text[: at - len(_PARAMETER_END)] if at else ""
        self.drop(at)
        if text:
            self.argue(_escaped(blanks.removesuffix("\n")) + '"')
        else:
            self.argue(_as_json("".join(parts)))


def _properties(schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = schema.get("properties")
    known = found if isinstance(found, Mapping) else {}
    return {key: value if isinstance(value, Mapping) else {} for key, value in known.items()}


def _is_text(schema: Mapping[str, Any]) -> bool:
    """Whether the value can only be a text; one without a schema is taken for one."""
    return (
        schema.get("type", "string") == "string" and not {"anyOf", "oneOf", "$ref"} & schema.keys()
    )


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _as_json(text: str) -> str:
    text = text.strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return _PYTHON.get(text) or json.dumps(text, ensure_ascii=False)
    return text


def _rules(rule: str, function: Function) -> list[str]:
    """The parameters in their order, those that are not required maybe."""
    schema = parameters(function)
    rules, uses = [], []
    for at, (key, value) in enumerate(_properties(schema).items()):
        own = f"{rule}_{at}"
        uses.append(own if key in schema.get("required", ()) else f"{own}?")
        begin = json.dumps(f"{_PARAMETER}{key}>\n", ensure_ascii=False)
        rules.append(f"{own}: {begin} {own}_value")
        rules.append(f"{own}_value{_value_rule(value, schema, function)}")
    return [f"{rule}: {' '.join(uses) or _NOTHING}", *rules]


def _value_rule(value: Mapping[str, Any], schema: dict[str, Any], function: Function) -> str:
    """A value up to its closing tag; of a text nothing but its length can be enforced here."""
    end = f"\n{_PARAMETER_END}\n"
    if not _is_text(value):
        definitions = {"$defs": schema.get("$defs", {})}
        return f": {embedded(definitions | dict(value), function)} {json.dumps(end)}"
    if choices := value.get("enum"):
        return ": " + " | ".join(json.dumps(f"{choice}{end}") for choice in choices)
    length = f"{{{value.get('minLength', 0)},{value.get('maxLength', '')}}}"
    return f"[suffix={json.dumps(end)}]: /(.|\\n){length}/"


QWEN_XML = Dialect(
    "qwen-xml",
    QwenXml,
    Form(f"{_CALL}\n{_FUNCTION}", ">\n", f"{_FUNCTION_END}\n{_CALL_END}", "\n"),
    arguments=_rules,
)
