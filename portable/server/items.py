"""The Responses API's items as a chat's request, and an answer's blocks as items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from portable.errors import InvalidRequest
from portable.server.blocks import Block
from portable.server.openai import tokens
from portable.server.params import plain_text, with_system
from portable.server.wire import chat
from portable.server.wire.chat import Called, ChatMessage, ChatRequest, Function, Tool, ToolCall
from portable.server.wire.responses import FunctionTool, Item, ResponseRequest, ToolChoice
from portable.server.wire.sampling import JsonSchema, ResponseFormat, Sampling

_UNSUPPORTED = ("background", "conversation", "prompt")
_LOGPROBS = "message.output_text.logprobs"
# A chat's fields by the names that they have here.
NAMES = (
    (re.compile(r"^response_format\.json_schema"), "text.format"),
    (re.compile(r"^response_format"), "text.format"),
    (re.compile(r"^(tools\[\d+\])\.function"), r"\1"),
)
_KINDS = ("message", "function_call", "function_call_output", "reasoning")


def as_chat(asked: ResponseRequest, conversation: Sequence[Item]) -> ChatRequest:
    """The same as a chat's request. Raises InvalidRequest for what no chat can be asked."""
    for name in _UNSUPPORTED:
        if getattr(asked, name):
            raise InvalidRequest(f"{name} is not supported by this version", param=name)
    if asked.n not in (None, 1):
        raise InvalidRequest("n: a response is one answer", param="n")
    shared = {name: getattr(asked, name) for name in Sampling.__struct_fields__}
    format = _response_format(asked)
    logprobs = _LOGPROBS in (asked.include or ()) or asked.top_logprobs is not None
    return ChatRequest(
        messages=with_system(asked.instructions, messages(conversation)),
        max_completion_tokens=asked.max_output_tokens,
        # A chat would go on with an answer that comes last.
        continue_final_message=False,
        reasoning_effort=asked.reasoning.effort if asked.reasoning else None,
        tools=[_tool(tool, at) for at, tool in enumerate(asked.tools or [])] or None,
        tool_choice=_tool_choice(asked),
        parallel_tool_calls=asked.parallel_tool_calls,
        logprobs=logprobs,
        top_logprobs=asked.top_logprobs,
        **shared | ({"response_format": format} if format else {}),
    )


def _response_format(asked: ResponseRequest) -> ResponseFormat | None:
    format = asked.text and asked.text.format
    if not format:
        return None
    schema = JsonSchema(format.schema) if format.type == "json_schema" else None
    return ResponseFormat(format.type, schema)


def _tool(tool: FunctionTool, at: int) -> Tool:
    """A function as chats write it."""
    path = f"tools[{at}]"
    if tool.type != "function":
        raise InvalidRequest(
            f"{path}.type: only functions can be called here, not {tool.type[:40]!r}",
            param=f"{path}.type",
        )
    if tool.name is None:
        raise InvalidRequest(f"{path}.name: a function needs one", param=f"{path}.name")
    return Tool("function", Function(tool.name, tool.description, tool.parameters, tool.strict))


def _tool_choice(asked: ResponseRequest) -> Any:
    """The choice as chats write it."""
    choice = asked.tool_choice
    if not isinstance(choice, ToolChoice):
        return choice
    if choice.type == "function":
        return chat.ToolChoice("function", chat.FunctionName(choice.name or ""))
    names = [chat.FunctionName(tool.name or "") for tool in choice.tools or ()]
    allowed = chat.AllowedTools(choice.mode or "auto", [chat.AllowedTool(name) for name in names])
    return chat.ToolChoice("allowed_tools", allowed_tools=allowed)


def check(items: Sequence[Item]) -> None:
    """Raises InvalidRequest for what this server cannot read, by its place in `input`."""
    for at, item in enumerate(items):
        path = f"input[{at}]"
        if item.kind not in _KINDS:
            raise _invalid(f"{path}.type", f"items of type {item.kind[:40]!r} are not supported")
        needed: dict[str, tuple[str, ...]] = {
            "message": ("role", "content"),
            "function_call": ("call_id", "name", "arguments"),
            "function_call_output": ("call_id", "output"),
        }
        for name in needed.get(item.kind, ()):
            if getattr(item, name) is None:
                raise _invalid(f"{path}.{name}", f"a {item.kind} item needs it")
        plain_text(item.content or "", f"{path}.content")
        plain_text(item.output or "", f"{path}.output")


def messages(items: Sequence[Item]) -> list[ChatMessage]:
    """Checked items as messages: what an assistant thinks, says and calls in a row is one."""
    made: list[ChatMessage] = []
    for item in items:
        if item.kind == "reasoning":
            _own(made, "reasoning_content", "content", "tool_calls").reasoning_content = _text(item)
        elif item.kind == "function_call":
            call = ToolCall(Called(item.name or "", item.arguments or ""), item.call_id)
            turn = _own(made)
            turn.tool_calls = [*(turn.tool_calls or []), call]
        elif item.kind == "function_call_output":
            text = plain_text(item.output or "", "output")
            made.append(ChatMessage("tool", text, tool_call_id=item.call_id))
        elif item.role == "assistant":
            _own(made, "content", "tool_calls").content = _text(item)
        else:
            made.append(ChatMessage(item.role or "user", _text(item)))
    return made


def item(block: Block, id: str, status: str) -> dict[str, Any]:
    """An answer's block as an output item; while it is in progress it is still empty."""
    head = {"id": id, "type": _TYPES[block.kind], "status": status}
    if block.kind == "call":
        arguments = block.text if status != "in_progress" else ""
        return head | {"call_id": block.call_id, "name": block.name, "arguments": arguments}
    content = [part(block)] if status != "in_progress" else []
    if block.kind == "reasoning":
        return head | {"summary": [], "content": content, "encrypted_content": None}
    return head | {"role": "assistant", "content": content}


def part(block: Block, *, empty: bool = False) -> dict[str, Any]:
    """What is in an item that is not a call."""
    text, logprobs = ("", []) if empty else (block.text, tokens(block.logprobs))
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


_TYPES = {"text": "message", "reasoning": "reasoning", "call": "function_call"}


def _own(made: list[ChatMessage], *free: str) -> ChatMessage:
    """The assistant's message at the end, where these fields are free; else a new one."""
    last = made[-1] if made else None
    if last is None or last.role != "assistant" or any(getattr(last, name) for name in free):
        made.append(ChatMessage("assistant"))
    return made[-1]


def _text(item: Item) -> str:
    return plain_text(item.content or "", "content")


def _invalid(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {reason}", param=path)
