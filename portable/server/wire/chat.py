"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from portable.server.wire.sampling import Sampling

MAX_TOOLS = 128
FunctionText = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Role = Literal["system", "developer", "user", "assistant", "tool"]


class Part(msgspec.Struct):
    """A part of a message's content; of these models only `text` parts make sense."""

    ignored: ClassVar = ("annotations", "logprobs")

    type: str
    text: str | None = None


class Called(msgspec.Struct):
    name: str
    arguments: str = ""  # a JSON object's text


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
    reasoning: str | None = None


class Function(msgspec.Struct, omit_defaults=True):
    """What a model may call; `parameters` is the JSON schema of an object."""

    name: FunctionText
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: Literal["function"]
    function: Function


class FunctionName(msgspec.Struct):
    name: str


class AllowedTool(msgspec.Struct):
    function: FunctionName
    type: Literal["function"] = "function"


class AllowedTools(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class ToolChoice(msgspec.Struct):
    """One function that has to be called, or some of the tools."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


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
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    reasoning_format: Literal["none", "deepseek", "auto"] | None = None
    thinking_budget_tokens: Annotated[int, Meta(ge=-1, le=1 << 31)] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
