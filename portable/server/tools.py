"""A chat's tools as the request says them, checked, as dialects take them; knows no HTTP."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from portable.dialects.schema import check
from portable.dialects.toolbox import Toolbox
from portable.errors import InvalidRequest
from portable.server.wire.chat import ChatRequest, Tool, ToolCall

_NO_ARGUMENTS = {"type": "object", "properties": {}}


def toolbox(asked: ChatRequest) -> Toolbox | None:
    """None where there are no tools. Raises InvalidRequest."""
    choice, tools = asked.tool_choice, asked.tools or []
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice: there are no tools to choose", param="tool_choice")
        return None
    _check(tools)
    shown = [_shown(tool) for tool in tools]
    several = asked.parallel_tool_calls is not False
    if choice is None or isinstance(choice, str):
        return Toolbox(shown, choice or "auto", several=several)
    allowed = choice.allowed_tools
    if choice.type == "allowed_tools" and allowed:
        only = frozenset(tool.function.name for tool in allowed.tools)
        mode = allowed.mode
    elif choice.type == "function" and choice.function:
        only, mode, several = frozenset((choice.function.name,)), "required", False
    else:
        path = f"tool_choice.{choice.type}"
        raise InvalidRequest(f"{path}: a choice of type {choice.type} needs it", param=path)
    if unknown := only - {tool.function.name for tool in tools}:
        name = min(unknown)
        raise InvalidRequest(
            f"tool_choice: {name[:80]!r} is none of the tools", param="tool_choice"
        )
    return Toolbox(shown, mode, only, several)


def call(call: ToolCall) -> dict[str, Any]:
    """A call of an earlier turn as templates expect it: the arguments as an object."""
    plain: dict[str, Any] = msgspec.to_builtins(call)
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        return plain
    if isinstance(arguments, dict):
        plain["function"]["arguments"] = arguments
    return plain


def _check(tools: list[Tool]) -> None:
    names: set[str] = set()
    for at, tool in enumerate(tools):
        path, name = f"tools[{at}].function", tool.function.name
        if name in names:
            raise InvalidRequest(f"{path}.name: {name} is there twice", param=f"{path}.name")
        names.add(name)
        check(tool.function.parameters or {}, f"{path}.parameters")


def _shown(tool: Tool) -> dict[str, Any]:
    """As the client wrote it; templates look for parameters also where there are none."""
    shown: dict[str, Any] = msgspec.to_builtins(tool)
    shown["function"].setdefault("parameters", _NO_ARGUMENTS)
    return shown
