"""The table of endpoints as an OpenAPI 3.1 description: the structs that check are what is told."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from portable import __version__
from portable.server.replies import JSON
from portable.server.routes import ENDPOINTS, Endpoint

_REFERENCES = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "required": ["error", "object", "message"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
        "object": {"const": "error"},
        "message": {"type": "string"},
    },
}


async def openapi(request: Request) -> Response:
    """GET /openapi.json."""
    return JSON(_described())


@functools.cache
def _described() -> dict[str, Any]:
    return describe(ENDPOINTS)


def describe(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The whole document."""
    bodies = [endpoint.body for endpoint in endpoints if endpoint.body]
    schemas, components = msgspec.json.schema_components(bodies, ref_template=_REFERENCES)
    schema_of = dict(zip(bodies, schemas))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        for path in endpoint.paths:
            shown = re.sub(r":path}", "}", path)
            schema = schema_of.get(endpoint.body) if endpoint.body else None
            operation = _operation(endpoint, shown, schema)
            paths.setdefault(shown, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "portable", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(endpoint: Endpoint, path: str, schema: Any) -> dict[str, Any]:
    error = {"schema": {"$ref": _REFERENCES.format(name="Error")}}
    told = {"description": "An error.", "content": {"application/json": error}}
    made: dict[str, Any] = {
        "summary": (inspect.getdoc(endpoint.answer) or "").split("\n\n")[0].replace("\n", " "),
        "responses": {"200": {"description": "The answer."}, "4XX": told, "5XX": told},
    }
    if schema:
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if names := re.findall(r"{(\w+)}", path):
        text = {"type": "string", "minLength": 1}
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": text} for name in names
        ]
    return made
