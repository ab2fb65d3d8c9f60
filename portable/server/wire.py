"""The OpenAI wire format: requests as checked structs, one home a field; knows no HTTP."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from portable.errors import InvalidRequest

T = TypeVar("T")
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
# Dividing by less would make a logit infinite.
Repetition = Annotated[float, Meta(ge=0.1, le=10)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
StopText = Annotated[str, Meta(min_length=1, max_length=256)]
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


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class TemplateOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a request may tell the model's template."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: str | None = None


class JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """`schema` beside `json_object` is llama-server's way to say it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None


class StructuredOutputs(msgspec.Struct):
    """vLLM's way to say what the answer must look like."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(max_length=1000)] | None = None
    grammar: str | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """The fields that chat completions and completions share. None: the model's own default."""

    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1 << 31)] | None = None
    min_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    repeat_penalty: Repetition | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=300)] | None = None
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Sampling, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    chat_template_kwargs: TemplateOptions | None = None
    enable_thinking: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None


class CompletionRequest(Sampling, kw_only=True):
    prompt: str | list[Any]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | bool | None = None
    best_of: int | None = None


_INVALID_AT = re.compile(r" - at (`key` in )?`\$?\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
_BYTE = re.compile(r"\(byte (\d+)\)")


def parse(body: bytes, kind: type[T]) -> T:
    """A request from its JSON. Raises InvalidRequest with the field's path, or line and column."""
    try:
        body.decode("utf-8")  # also where nobody will look
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error)) from None
    except msgspec.DecodeError as error:
        raise _invalid_json(body, str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _invalid_field(text: str) -> InvalidRequest:
    at = _INVALID_AT.search(text)
    path = at["path"].removesuffix("[...]") if at else ""
    missing = _MISSING.search(text)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
    reason = text[: at.start()] if at else text
    return InvalidRequest(f"{path or 'the body'}: {reason}", param=path or None)


def _invalid_json(body: bytes, text: str) -> InvalidRequest:
    """Line and column of the first byte that is wrong, and the usual cause if it is one."""
    found = _BYTE.search(text)
    at = int(found[1]) if found else len(body)
    before = body[:at].decode("utf-8", "replace")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    rest = body[at : at + 200].decode("utf-8", "replace").splitlines()[:1]
    hint = ""
    if rest and rest[0].startswith(("#", "//")):
        hint = f"JSON has no comments: remove `{rest[0].rstrip()}`"
    reason = _BYTE.sub("", text.removeprefix("JSON is malformed: ")).strip()
    return InvalidRequest(
        f"the body is not valid JSON: {reason}, line {line} column {column}", hint=hint
    )
