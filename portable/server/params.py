"""A checked request -> what the engine is asked to do; knows no HTTP."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from portable.errors import InvalidRequest
from portable.server import durations, structure, tools
from portable.server.wire.chat import ChatMessage, ChatRequest, Part
from portable.server.wire.completions import CompletionRequest
from portable.server.wire.sampling import Sampling

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
# Of chat completions; of Responses' messages and reasoning.
_TEXTS = ("text", "input_text", "output_text", "reasoning_text")


Names = tuple[tuple[re.Pattern[str], str], ...]


class UnsupportedContent(InvalidRequest):
    code = "unsupported_content"


def in_own_words(error: InvalidRequest, names: Names) -> InvalidRequest:
    """An error about a chat's field, by the name that another API has for it."""
    for pattern, own in names:
        if error.param and pattern.search(error.param):
            old, error.param = error.param, pattern.sub(own, error.param)
            error.message = error.message.replace(old, error.param, 1)
    return error


def sampling(request: Sampling) -> dict[str, Any]:
    """What the request itself says of how tokens are drawn, as SamplingParams' fields."""
    said = {name: value for name in _COPIED if (value := getattr(request, name)) is not None}
    if request.repetition_penalty is None and request.repeat_penalty is not None:
        said["repetition_penalty"] = request.repeat_penalty
    if (limit := token_limit(request)) is not None:
        said["max_tokens"] = limit
    if (top := _logprobs(request)) is not None:
        said["logprobs"] = top
    if (shape := structure.grammar(request)) is not None:
        said["grammar"] = shape
    stop = request.stop
    return said | {"stop": (stop,) if isinstance(stop, str) else tuple(stop or ())}


def token_limit(request: Sampling) -> int | None:
    """The longest answer that the request wants, by any of its names; llama-server's -1 is none."""
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return request.max_completion_tokens
    limit = request.n_predict if request.max_tokens is None else request.max_tokens
    return None if limit is not None and limit < 0 else limit


def lodging(request: Sampling) -> dict[str, Any]:
    """How long the model is kept, its context, and what a stream tells; as Wanted's fields."""
    said: dict[str, Any] = {"progress": bool(request.return_progress)}
    if request.keep_alive is not None:
        said["keep_alive"] = durations.seconds(request.keep_alive, "keep_alive")
    elif request.ttl is not None:
        said["keep_alive"] = durations.seconds(request.ttl, "ttl")
    context = request.num_ctx or (request.options and request.options.num_ctx)
    return said | ({"context": context} if context else {})


def chat_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: plain text, known roles, no empty fields."""
    return [_message(message, at) for at, message in enumerate(request.messages)]


def refuse_unsupported(request: CompletionRequest) -> None:
    """Say what this version cannot do instead of ignoring it. Raises InvalidRequest."""
    several = request.best_of not in (None, request.n or 1)
    asked = {"suffix": request.suffix, "best_of": several}
    for name, value in asked.items():
        if value:
            raise InvalidRequest(f"{name} is not supported by this version", param=name)


def _logprobs(request: Sampling) -> int | None:
    """Of how many likeliest tokens the probabilities are wanted, beside each token's own."""
    if isinstance(request, CompletionRequest):
        if request.echo and request.logprobs is not None:
            text = "logprobs: those of the prompt are not computed, so not with echo"
            raise InvalidRequest(text, param="logprobs")
        return request.logprobs
    if not isinstance(request, ChatRequest):
        return None
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs: needs logprobs to be true", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _message(message: ChatMessage, at: int) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": _text(message, at)}
    if thought := message.reasoning_content or message.reasoning:
        plain["reasoning_content"] = thought
    if message.tool_calls:
        plain["tool_calls"] = [tools.call(call) for call in message.tool_calls]
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            plain[name] = value
    return plain


def with_system(text: str | None, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """A system prompt that came apart from the messages, as one with those that begin them.

    Templates take one, at the beginning.
    """
    if not text:
        return [*messages]
    first = list(itertools.takewhile(lambda m: m.role in ("system", "developer"), messages))
    texts = [text, *(plain_text(m.content or "", "messages") for m in first)]
    return [ChatMessage("system", "\n\n".join(texts)), *messages[len(first) :]]


def plain_text(content: str | list[Part], path: str) -> str:
    """Text parts as one text. Raises InvalidRequest for others."""
    if isinstance(content, str):
        return content
    return "\n".join(_part(part, f"{path}[{at}]") for at, part in enumerate(content))


def _text(message: ChatMessage, at: int) -> str:
    path = f"messages[{at}].content"
    if message.content is None and message.role != "assistant":
        raise InvalidRequest(f"{path}: a {message.role} message needs text", param=path)
    return plain_text(message.content or "", path)


def _part(part: Part, path: str) -> str:
    if part.type not in _TEXTS:
        raise UnsupportedContent(
            f"{path}: this model reads text, not {part.type[:40]}", param=f"{path}.type"
        )
    if part.text is None:
        raise InvalidRequest(f"{path}: a text part needs its text", param=f"{path}.text")
    return part.text
