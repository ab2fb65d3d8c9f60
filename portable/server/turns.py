"""Anthropic's messages as a chat's request."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from portable.errors import InvalidRequest
from portable.server.params import UnsupportedContent, with_system
from portable.server.wire import chat
from portable.server.wire.chat import Called, ChatMessage, ChatRequest, TemplateOptions, ToolCall
from portable.server.wire.messages import (
    Block,
    Choice,
    CountRequest,
    Document,
    Image,
    MessageRequest,
    OutputConfig,
    TextBlock,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    Turn,
)
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
        **drawn,
        tools=[_tool(tool, at) for at, tool in enumerate(asked.tools or [])] or None,
        tool_choice=_choice(asked.tool_choice),
        parallel_tool_calls=not (asked.tool_choice and asked.tool_choice.disable_parallel_tool_use),
        **_shape(asked),
    )


def _drawn(asked: MessageRequest) -> dict[str, Any]:
    """How tokens are drawn."""
    return {name: getattr(asked, name) for name in _COPIED} | {"stop": asked.stop_sequences}


def _shape(asked: CountRequest) -> dict[str, Any]:
    """What an answer must look like, and how much thought it takes."""
    said: dict[str, Any] = {}
    config = asked.output_config or OutputConfig()
    thinks = asked.thinking.type != "disabled" if asked.thinking else None
    said["chat_template_kwargs"] = TemplateOptions(thinks, reasoning_effort=config.effort)
    if asked.thinking:
        said["thinking_budget_tokens"] = asked.thinking.budget_tokens
    if config.format:
        schema = JsonSchema(config.format.schema)
        said["response_format"] = ResponseFormat("json_schema", schema)
    return said


def _choice(choice: Choice | None) -> chat.ToolChoice | Literal["none", "auto", "required"] | None:
    """The choice as chats write it."""
    if choice is None:
        return None
    if choice.type == "tool":
        return chat.ToolChoice("function", chat.FunctionName(choice.name or ""))
    return _CHOICES[choice.type]


def _tool(tool: Tool, at: int) -> chat.Tool:
    """A tool of the client as a chat's function."""
    if tool.input_schema is None:
        path = f"tools[{at}].type"
        raise InvalidRequest(
            f"{path}: only tools that you run can be called here, not {str(tool.type)[:40]!r}",
            param=path,
        )
    function = chat.Function(tool.name, tool.description, tool.input_schema)
    return chat.Tool("function", function)


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
