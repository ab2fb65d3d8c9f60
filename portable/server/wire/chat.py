"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from portable.server.wire.sampling import Sampling

Role = Literal["system", "developer", "user", "assistant", "tool"]


class Part(msgspec.Struct):
    """A part of a message's content; of these models only `text` parts make sense."""

    type: str
    text: str | None = None


class Called(msgspec.Struct):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """A call that the model made in an earlier turn."""

    function: Called
    id: str | None = None
    type: str = "function"


class ChatMessage(msgspec.Struct):
    role: Role
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class TemplateOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a request may tell the model's template."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: str | None = None


class ChatRequest(Sampling, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    chat_template_kwargs: TemplateOptions | None = None
    enable_thinking: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
