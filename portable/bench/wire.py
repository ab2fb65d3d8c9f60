"""OpenAI's streamed chat chunks -> an Answer, as different servers write them; knows no sockets."""

from __future__ import annotations

from typing import Any

import msgspec

from portable.bench.answer import Answer

DONE = "[DONE]"


class _Delta(msgspec.Struct):
    content: str | None = None
    # Where servers put the thoughts of reasoning models: tokens like any other.
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Failure(msgspec.Struct):
    error: Any = None
    detail: Any = None
    message: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_chunk = msgspec.json.Decoder(_Chunk)


def read_chunk(data: str, answer: Answer) -> None:
    """Tell the answer what one SSE event's data brought.

    Usage may come on the last chunk, on an extra one without choices, on every one, or never.
    """
    if data == DONE:
        return
    try:
        chunk = _chunk.decode(data)
    except msgspec.MsgspecError as error:
        answer.fail(f"the server sent what is no chat chunk: {error}: {data[:80]}")
        return
    if chunk.error is not None:
        answer.fail(_words(chunk.error))
    for choice in chunk.choices or ():
        _read_choice(choice, answer)
    if chunk.usage is not None:
        details = chunk.usage.prompt_tokens_details
        cached = details.cached_tokens if details else None
        answer.used(chunk.usage.completion_tokens, chunk.usage.prompt_tokens, cached)


def _read_choice(choice: _Choice, answer: Answer) -> None:
    delta = choice.delta or _Delta()
    answer.piece(delta.content or delta.reasoning_content or delta.reasoning or "")
    if choice.finish_reason is not None:
        answer.finish()


def failure(status: int, body: bytes) -> str:
    """One line for an answer that is not 200, in the server's own words if it has some."""
    try:
        told = msgspec.json.decode(body, type=_Failure)
    except msgspec.MsgspecError:
        words = body.decode("utf-8", "replace")
    else:
        words = _words(told.error or told.detail or told.message or "")
    return " ".join(f"HTTP {status}: {words}".split()).removesuffix(":")


def first_model(body: bytes) -> str | None:
    """The id of the first model in a `/v1/models` answer; None if it is none."""
    try:
        models = msgspec.json.decode(body, type=_Models).data
    except msgspec.MsgspecError:
        return None
    return models[0].id if models else None


def _words(error: Any) -> str:
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()
