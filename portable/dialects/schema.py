"""The schema of a function's arguments: its bounds, and the Lark rules that hold a model to it."""

from __future__ import annotations

import json
from typing import Any

from portable.errors import InvalidRequest

Function = dict[str, Any]  # name, and maybe description, parameters, strict

MAX_BYTES = 64 << 10
MAX_DEPTH = 32
# As json.dumps writes it, which is what models saw in training.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_SAYS_MORE = ("additionalProperties", "patternProperties", "anyOf", "oneOf", "allOf", "$ref")


def check(schema: dict[str, Any], path: str) -> None:
    """Raises InvalidRequest that names `path` if this is no schema of arguments, or too large."""
    if schema.get("type", "object") != "object":
        raise InvalidRequest(f"{path}.type: arguments are an object", param=f"{path}.type")
    if _depth(schema) > MAX_DEPTH:
        raise InvalidRequest(f"{path}: nested deeper than {MAX_DEPTH}", param=path)
    if len(json.dumps(schema)) > MAX_BYTES:
        raise InvalidRequest(f"{path}: a schema may have {MAX_BYTES} bytes", param=path)


def json_rules(rule: str, function: Function) -> list[str]:
    """Arguments as a JSON object."""
    schema = parameters(function)
    if "properties" in schema and not any(key in schema for key in _SAYS_MORE):
        # Small models would invent arguments for ever.
        schema = schema | {"additionalProperties": False}
    return [f"{rule}: {embedded(schema, function)}"]


def parameters(function: Function) -> dict[str, Any]:
    return {"type": "object"} | (function.get("parameters") or {"properties": {}})


def embedded(schema: dict[str, Any], function: Function) -> str:
    """A JSON schema within Lark; what cannot be enforced is an error only if it must be strict."""
    guidance = _SPACING | {"lenient": not function.get("strict")}
    return f"%json {json.dumps(schema | {'x-guidance': guidance})}"


def _depth(schema: Any) -> int:
    """How deep objects and lists are nested, looked at only as deep as is allowed."""
    level, depth = [schema], 0
    while level and depth <= MAX_DEPTH:
        values = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for inner in values for v in inner if isinstance(v, dict | list)]
        depth += 1
    return depth
