"""The body of POST /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from portable.server.wire.chat import MAX_TOOLS, Effort, FunctionText, Part
from portable.server.wire.sampling import Sampling


class Item(msgspec.Struct, omit_defaults=True):
    """One item of a conversation; `type` says which of the fields count.

    A message may come without its type, and so may a reference to an item of an earlier response.
    """

    ignored: ClassVar = ("status", "summary", "encrypted_content")

    type: str | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None

    @property
    def kind(self) -> str:
        return self.type or ("message" if self.role else "item_reference")


class TextFormat(msgspec.Struct):
    """What chat completions call response_format, flat."""

    type: Literal["text", "json_object", "json_schema"]
    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct):
    format: TextFormat | None = None


class Reasoning(msgspec.Struct):
    effort: Effort | None = None


class FunctionTool(msgspec.Struct):
    """A function that the model may call. Other types are read so that they can be named."""

    type: str
    name: FunctionText | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(msgspec.Struct):
    """One function, or those that are allowed this time."""

    type: Literal["function", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[FunctionTool] | None = None


class ResponseRequest(Sampling, kw_only=True):
    """Of POST /v1/responses/input_tokens, too, which looks at less of it."""

    input: str | Annotated[list[Item], Meta(min_length=1, max_length=10_000)]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    user: str | None = None
