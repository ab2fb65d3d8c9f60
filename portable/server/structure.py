"""What a request says its answer must look like, in OpenAI's, vLLM's or llama-server's words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from portable.engine.sequence import Grammar
from portable.errors import InvalidRequest
from portable.server.wire.sampling import Sampling


def grammar(request: Sampling) -> Grammar | None:
    """None where any text will do. Raises InvalidRequest when the request wants two things."""
    found = list(_wanted(request))
    if len(found) > 1:
        names = " and ".join(grammar.param for grammar in found)
        raise InvalidRequest(f"{names}: only one can shape the answer", param=found[1].param)
    return found[0] if found else None


def _wanted(request: Sampling) -> Iterator[Grammar]:
    yield from _response_format(request)
    if request.json_schema is not None:
        yield _schema(request.json_schema, "json_schema")
    if request.grammar:
        yield _grammar(request.grammar, "grammar")
    if request.structured_outputs:
        asked, param = request.structured_outputs, "structured_outputs"
        if asked.json is not None:
            yield _schema(asked.json, f"{param}.json")
        if asked.regex:
            yield Grammar("regex", asked.regex, f"{param}.regex")
        if asked.choice:
            choices = " | ".join(json.dumps(choice) for choice in asked.choice)
            yield Grammar("lark", f"start: {choices}", f"{param}.choice")
        if asked.grammar:
            yield _grammar(asked.grammar, f"{param}.grammar")


def _response_format(request: Sampling) -> Iterator[Grammar]:
    wanted, param = request.response_format, "response_format"
    if wanted is None or wanted.type == "text":
        return
    if wanted.type == "json_object":
        yield _schema(wanted.schema or {"type": "object"}, param)
    elif wanted.json_schema is None or wanted.json_schema.schema is None:
        path = f"{param}.json_schema.schema"
        raise InvalidRequest(f"{path}: json_schema needs a schema", param=path)
    else:
        yield _schema(wanted.json_schema.schema, f"{param}.json_schema.schema")


def _schema(schema: dict[str, Any] | str, param: str) -> Grammar:
    text = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    return Grammar("json_schema", text, param)


def _grammar(text: str, param: str) -> Grammar:
    """GBNF, llama.cpp's, writes `name ::= ...`; Lark, which vLLM takes as well, `name: ...`."""
    return Grammar("gbnf" if "::=" in text else "lark", text, param)
