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
    stream = state.generator.open(
        envelope.id,
        lambda: protocol.Generate(
            envelope.id, state.sampling(said), messages=messages, options=options
        ),
    )
    prompt_tokens = await state.generator.accepted(request, stream, patient=not asked.stream)
    headers = state.clamped(said, prompt_tokens)
    if asked.stream:
        return state.generator.stream(stream, envelope, headers)
    answer = await state.generator.answer(request, stream)
    return JSON(_body(envelope, answer), headers=headers)


def _envelope(model: str, asked: ChatRequest) -> Envelope:
    def choices(finish: str | None = None, **delta: str) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]

    return Envelope(
        kind="chat.completion.chunk",
        model=model,
        prefix="chatcmpl",
        start=lambda: choices(role="assistant", content=""),
        delta=lambda text: choices(content=text),
        # An empty text, not an empty delta: the tutorial's script adds it to a string.
        finish=lambda reason: choices(reason, content=""),
        include_usage=asked.includes_usage,
    )


def _body(envelope: Envelope, answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "tool_calls": None}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": answer.finish_reason,
        "logprobs": None,
    }
    body = envelope.chunk(
        [choice], usage=sse.usage(answer.usage), timings=sse.timings(answer.usage)
    )
    return body | {"object": "chat.completion"}
