"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine.logprobs import TokenLogprob
from portable.server import params
from portable.server.generate import respond
from portable.server.layout import Answer, Piece
from portable.server.openai import Chunks, timings, usage
from portable.server.wanted import Conversation, Wanted
from portable.server.wire.chat import ChatRequest
from portable.server.wire.parse import parse


async def chat_completions(request: Request) -> Response:
    """A whole answer, or with `stream` its chunks as they come."""
    asked = parse(await request.body(), ChatRequest)
    return await respond(
        request, wanted(asked), lambda model: ChatLayout(model, include_usage=asked.includes_usage)
    )


def wanted(asked: ChatRequest, param: str = "messages") -> Wanted:
    """What it asks of a model. Other APIs' conversations become a ChatRequest, too.

    `param` is the field that the messages came in.
    """
    params.refuse_unsupported(asked)
    conversation = Conversation(params.chat_messages(asked), params.template_options(asked))
    return Wanted(
        prompts=[conversation],
        said=params.sampling(asked),
        model=asked.model,
        count=asked.n or 1,
        stream=bool(asked.stream),
        param=param,
        **params.lodging(asked),
    )


class ChatLayout(Chunks):
    """Choices with a message, or with what is added to it."""

    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def start(self, index: int) -> list[dict[str, Any]]:
        return _choices(index, role="assistant", content="")

    def delta(self, piece: Piece) -> list[dict[str, Any]]:
        choices = _choices(piece.index, content=piece.said.content)
        if piece.logprobs:
            choices[0]["logprobs"] = _content(piece.logprobs)
        return choices

    def finish(self, index: int, reason: str) -> list[dict[str, Any]]:
        # An empty text, not an empty delta: the tutorial's script adds it to a string.
        return _choices(index, reason, content="")

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        used = [answer.usage for answer in answers]
        choices = [_choice(index, answer) for index, answer in enumerate(answers)]
        spent = {"usage": usage(*used), "timings": timings(used[0])}
        return self.whole("chat.completion", choices, **spent)


def _choices(index: int, finish: str | None = None, **delta: Any) -> list[dict[str, Any]]:
    return [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}]


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.said.content, "tool_calls": None},
        "finish_reason": answer.finish_reason,
        "logprobs": _content(answer.logprobs) if answer.logprobs else None,
    }


def _content(logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Each token with its bytes and probability, and the likeliest ones in its place.

    Without OpenAI's `refusal`, which ms-swift's client cannot read.
    """
    content = []
    for known in logprobs:
        top = [_token(*other) for other in known.top]
        content.append({**_token(known.token, known.logprob), "top_logprobs": top})
    return {"content": content}


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}
