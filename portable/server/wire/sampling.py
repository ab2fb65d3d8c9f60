"""What chat completions and completions have in common: how an answer is drawn and shaped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
# Dividing by less would make a logit infinite.
Repetition = Annotated[float, Meta(ge=0.1, le=10)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
StopText = Annotated[str, Meta(min_length=1, max_length=256)]


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


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


class Options(msgspec.Struct):
    """Of Ollama's options the one that no other field says."""

    num_ctx: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """The fields that chat completions and completions share. None: the model's own default."""

    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    n_predict: Annotated[int, Meta(ge=-1, le=1 << 31)] | None = None
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
    return_progress: bool | None = None
    keep_alive: float | str | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None
    num_ctx: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    options: Options | None = None

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)
