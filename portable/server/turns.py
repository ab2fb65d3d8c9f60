"""Anthropic's messages as a chat's request."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from portable.errors import InvalidRequest
from portable.server.params import UnsupportedContent, with_system
from portable.server.wire.chat import (
    Called,
    ChatMessage,
    ChatRequest,
    Function,
    FunctionName,
    Tool,
    ToolCall,
    ToolChoice,
)
from portable.server.wire.messages import (
    Block,
    CountRequest,
    Document,
    Image,
    MessageRequest,
    TextBlock,
    Thinking,
    ToolResult,
    ToolUse,
    Turn,
)
from portable.server.wire.messages import Tool as AnthropicTool
from portable.server.wire.sampling import JsonSchema, ResponseFormat

# A chat's fields by the names that they have here.
NAMES = (
    (re.compile(r"^response_format\.json_schema"), "output_config.format"),
    (re.compile(r"^(tools\[\d+\])\.function\.parameters"), r"\1.input_schema"),
    (re.compile(r"^(tools\[\d+\])\.function"), r"\1"),
    (re.compile(r"^stop$"), "stop_sequences"),
)
_COPIED = ("temperature", "top_p", "top_k", "max_tokens", "stream", "keep_alive", "num_ctx")
_CHOICES: dict[str, Literal["none", "auto", "required"]] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
}


def as_chat(asked: CountRequest) -> ChatRequest:
    """The same conversation and wishes. Raises InvalidRequest."""
    messages = [m for at, turn in enumerate(asked.messages) for m in _messages(turn, at)]
    system = None if asked.system is None else _text(asked.system, "system")
    drawn = _drawn(asked) if isinstance(asked, MessageRequest) else {}
    return ChatRequest(
        messages=with_system(system, messages),
        model=asked.model,
        tools=[_tool(tool, at) for at, tool in enumerate(asked.tools or [])] or None,
        **drawn,
        **_chosen(asked),
        **_shape(asked),
    )


def _drawn(asked: MessageRequest) -> dict[str, Any]:
    """How tokens are drawn."""
    return {name: getattr(asked, name) for name in _COPIED} | {"stop": asked.stop_sequences}


def _chosen(asked: CountRequest) -> dict[str, Any]:
    """Which tools have to be called."""
    choice = asked.tool_choice
    if choice is None:
        return {}
    if choice.type == "tool" and choice.name is None:
        raise InvalidRequest("tool_choice.name: which tool?", param="tool_choice.name")
    one = ToolChoice("function", FunctionName(choice.name or ""))
    return {
        "tool_choice": one if choice.type == "tool" else _CHOICES[choice.type],
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
    }


def _shape(asked: CountRequest) -> dict[str, Any]:
    """What an answer must look like, and how much thought it takes."""
    said: dict[str, Any] = {}
    if thinking := asked.thinking:
        said["enable_thinking"] = thinking.type != "disabled"
        said["thinking_budget_tokens"] = thinking.budget_tokens
    if config := asked.output_config:
        said["reasoning_effort"] = "xhigh" if config.effort == "max" else config.effort
        if config.format:
            schema = JsonSchema(config.format.schema)
            said["response_format"] = ResponseFormat("json_schema", schema)
    return said


def _tool(tool: AnthropicTool, at: int) -> Tool:
    """A tool of the client as a chat's function."""
    if tool.input_schema is None:
        path = f"tools[{at}].type"
        if tool.type in (None, "custom"):
            path = f"tools[{at}].input_schema"
            raise InvalidRequest(f"{path} is required", param=path)
        raise InvalidRequest(
            f"{path}: only tools that you run can be called here, not {str(tool.type)[:40]!r}",
            param=path,
        )
    return Tool("function", Function(tool.name, tool.description, tool.input_schema))


def _messages(turn: Turn, at: int) -> list[ChatMessage]:
    path = f"messages[{at}].content"
    if isinstance(turn.content, str):
        return [ChatMessage(turn.role, turn.content)]
    _check(turn.content, path)
    text = "\n".join(block.text for block in turn.content if isinstance(block, TextBlock))
    if turn.role == "assistant":
        return [_answer(turn.content, text)]
    results = [
        ChatMessage("tool", _result(block, f"{path}[{i}]"), tool_call_id=block.tool_use_id)
        for i, block in enumerate(turn.content)
        if isinstance(block, ToolResult)
    ]
    # What the user says beside results comes behind them: calls and results belong together.
    return [*results, ChatMessage(turn.role, text)] if text or not results else [*results]


def _answer(blocks: Sequence[Block], text: str) -> ChatMessage:
    """What the assistant thought, said and called."""
    thought = "".join(block.thinking for block in blocks if isinstance(block, Thinking))
    calls = [
        ToolCall(Called(block.name, json.dumps(block.input, ensure_ascii=False)), block.id)
        for block in blocks
        if isinstance(block, ToolUse)
    ]
    return ChatMessage(
        "assistant", text, tool_calls=calls or None, reasoning_content=thought or None
    )


def _result(block: ToolResult, path: str) -> str:
    text = _text(block.content or "", f"{path}.content")
    return f"Error: {text}" if block.is_error else text


def _text(content: str | Sequence[Block], path: str) -> str:
    """Text blocks as one text."""
    if isinstance(content, str):
        return content
    _check(content, path)
    return "\n".join(block.text for block in content if isinstance(block, TextBlock))


def _check(blocks: Sequence[Block], path: str) -> None:
    """Raises InvalidRequest for what a model cannot read."""
    for at, block in enumerate(blocks):
        if isinstance(block, Image | Document):
            kind = type(block).__name__.lower()
            raise UnsupportedContent(
                f"{path}[{at}]: this model reads text, not {kind}s", param=f"{path}[{at}].type"
            )
