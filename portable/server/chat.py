"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine import protocol
from portable.server import params, sse
from portable.server.generate import Answer, Envelope
from portable.server.replies import JSON
from portable.server.state import State
from portable.server.wire import ChatRequest, parse


async def chat_completions(request: Request) -> Response:
    """A whole answer, or with `stream` its chunks as they come."""
    state: State = request.app.state.portable
    asked = parse(await request.body(), ChatRequest)
    model = state.names.resolve(asked.model)
    params.refuse_unsupported(asked)
    envelope = _envelope(model, asked)
    said, messages = params.sampling(asked), params.chat_messages(asked)
    options = params.template_options(asked)

    def command(id: str, at: int) -> protocol.Generate:
        sampling = state.sampling(params.of_choice(said, at))
        return protocol.Generate(id, sampling, messages=messages, options=options)

    asks = state.asks(envelope.id, asked.n or 1, command)
    if asked.stream:
        streams = await state.generator.streams(request, asks)
        headers = state.clamped(said, asks[0].prompt_tokens)
        return state.generator.stream(streams, envelope, headers)
    answers = await state.generator.answers(request, asks)
    headers = state.clamped(said, asks[0].prompt_tokens)
    return JSON(_body(envelope, answers), headers=headers)


def _envelope(model: str, asked: ChatRequest) -> Envelope:
    def choices(index: int, finish: str | None = None, **delta: str) -> list[dict[str, Any]]:
        return [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}]

    return Envelope(
        kind="chat.completion.chunk",
        model=model,
        prefix="chatcmpl",
        start=lambda index: choices(index, role="assistant", content=""),
        delta=lambda index, text: choices(index, content=text),
        # An empty text, not an empty delta: the tutorial's script adds it to a string.
        finish=lambda index, reason: choices(index, reason, content=""),
        include_usage=asked.includes_usage,
    )


def _body(envelope: Envelope, answers: list[Answer]) -> dict[str, Any]:
    used = [answer.usage for answer in answers]
    choices = [_choice(index, answer) for index, answer in enumerate(answers)]
    body = envelope.chunk(choices, usage=sse.usage(*used), timings=sse.timings(used[0]))
    return body | {"object": "chat.completion"}


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.text, "tool_calls": None},
        "finish_reason": answer.finish_reason,
        "logprobs": None,
    }
