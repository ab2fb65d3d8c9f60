"""The bodies of POST /v1/messages and /v1/messages/count_tokens, Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from portable.server.wire.chat import MAX_TOOLS, FunctionText
from portable.server.wire.sampling import Fraction, StopText


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    ignored: ClassVar = ("cache_control", "citations")

    text: str


class Thinking(msgspec.Struct, tag_field="type", tag="thinking"):
    ignored: ClassVar = ("signature",)

    thinking: str


class RedactedThinking(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """Nothing that a model here could read."""

    ignored: ClassVar = ("data",)


class ToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    ignored: ClassVar = ("cache_control", "caller")

    id: str
    name: str
    input: dict[str, Any]


class Image(msgspec.Struct, tag_field="type", tag="image"):
    """Read so that it can be refused by its name."""


class Document(msgspec.Struct, tag_field="type", tag="document"):
    """Read so that it can be refused by its name."""


class ToolResult(msgspec.Struct, tag_field="type", tag="tool_result"):
    ignored: ClassVar = ("cache_control",)

    tool_use_id: str
    content: str | list[TextBlock | Image | Document] | None = None
    is_error: bool | None = None


Block = TextBlock | Thinking | RedactedThinking | ToolUse | ToolResult | Image | Document


class Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool that the client runs; `type` names those that Anthropic's servers would run."""

    ignored: ClassVar = ("cache_control",)

    name: FunctionText
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None


class Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None


class OutputFormat(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """What a prompt is made from."""

    ignored: ClassVar = ("cache_control", "metadata", "service_tier")

    messages: Annotated[list[Turn], Meta(min_length=1, max_length=10_000)]
    model: str | None = None
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None


class MessageRequest(CountRequest, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=0, le=1 << 31)]
    temperature: Fraction | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    stop_sequences: Annotated[list[StopText], Meta(max_length=16)] | None = None
    stream: bool | None = None
    keep_alive: float | str | None = None
    num_ctx: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
