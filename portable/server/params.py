"""A checked request -> what the engine is asked to do; knows no HTTP."""

from __future__ import annotations

import dataclasses
from typing import Any

from portable.engine.sequence import SamplingParams
from portable.errors import InvalidRequest
from portable.server.wire import ChatMessage, ChatRequest, CompletionRequest, Part, Sampling

_COPIED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
)


def sampling(request: Sampling, base: SamplingParams) -> SamplingParams:
    """The request's own fields over the model's defaults."""
    if request.n not in (None, 1):
        raise InvalidRequest("n: only one answer a request is supported", param="n")
    said = {name: value for name in _COPIED if (value := getattr(request, name)) is not None}
    if request.repetition_penalty is None and request.repeat_penalty is not None:
        said["repetition_penalty"] = request.repeat_penalty
    if said.get("top_k") == -1:
        said["top_k"] = 0
    limit = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        limit = request.max_completion_tokens
    stop = request.stop
    said["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
    said["max_tokens"] = base.max_tokens if limit is None else limit
    return dataclasses.replace(base, **said)


def chat_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: plain text, known roles, no empty fields."""
    return [_message(message, at) for at, message in enumerate(request.messages)]


def template_options(request: ChatRequest) -> dict[str, Any]:
    """What the template may be told beside the messages."""
    given = request.chat_template_kwargs
    options = {} if given is None else {f: getattr(given, f) for f in given.__struct_fields__}
    if request.enable_thinking is not None:
        options.setdefault("enable_thinking", request.enable_thinking)
    return {name: value for name, value in options.items() if value is not None}


def refuse_unsupported(request: ChatRequest | CompletionRequest) -> None:
    """Say what this version cannot do instead of ignoring it. Raises InvalidRequest."""
    asked: dict[str, Any] = {"logprobs": request.logprobs}
    if isinstance(request, ChatRequest):
        wanted = request.response_format and request.response_format.get("type") != "text"
        used = request.tools and request.tool_choice != "none"
        asked |= {"top_logprobs": request.top_logprobs, "tools": used, "response_format": wanted}
    else:
        several = request.best_of not in (None, 1)
        asked |= {"suffix": request.suffix, "best_of": several}
    for name, value in asked.items():
        if value:
            raise InvalidRequest(f"{name} is not supported by this version", param=name)


def _message(message: ChatMessage, at: int) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": _text(message, at)}
    for name in ("name", "tool_calls", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            plain[name] = value
    return plain


def _text(message: ChatMessage, at: int) -> str:
    if isinstance(message.content, list):
        return "\n".join(
            _part(part, f"messages[{at}].content[{i}]") for i, part in enumerate(message.content)
        )
    if message.content is None and message.role != "assistant":
        path = f"messages[{at}].content"
        raise InvalidRequest(f"{path}: a {message.role} message needs text", param=path)
    return message.content or ""


def _part(part: Part, path: str) -> str:
    if part.type not in ("text", "input_text", "output_text"):
        raise InvalidRequest(
            f"{path}: this model reads text, not {part.type}", param=f"{path}.type"
        )
    return part.text
