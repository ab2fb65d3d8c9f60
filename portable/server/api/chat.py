"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.dialects.said import CallDelta
from portable.server import params
from portable.server.body import read_body
from portable.server.conversation import conversation
from portable.server.generate import respond
from portable.server.layout import Answer, Piece
from portable.server.openai import Chunks, timings, tokens, usage
from portable.server.wanted import Wanted
from portable.server.wire.chat import ChatRequest


async def chat_completions(request: Request) -> Response:
    """A whole answer, or with `stream` its chunks as they come."""
    asked = await read_body(request, ChatRequest)

    def lay_out(model: str) -> ChatLayout:
        tools = bool(asked.tools)
        return ChatLayout(model, include_usage=asked.includes_usage, tools=tools)

    return await respond(request, wanted(asked), lay_out)


def wanted(asked: ChatRequest, param: str = "messages") -> Wanted:
    """What it asks of a model. Other APIs' conversations become a ChatRequest, too.

    `param` is the field that the messages came in.
    """
    return Wanted(
        prompts=[conversation(asked)],
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

    def __init__(self, model: str, *, include_usage: bool, tools: bool) -> None:
        super().__init__(model, include_usage=include_usage)
        self._tools = tools
        self._called: set[int] = set()

    def start(self, index: int) -> list[dict[str, Any]]:
        return _choices(index, role="assistant", content="")

    def delta(self, piece: Piece) -> list[dict[str, Any]]:
        said = piece.said
        more = _reasoning(said.reasoning)
        if said.calls:
            self._called.add(piece.index)
            more["tool_calls"] = [_call_delta(call) for call in said.calls]
        choices = _choices(piece.index, content=said.content, **more)
        if piece.logprobs:
            choices[0]["logprobs"] = {"content": tokens(piece.logprobs)}
        return choices

    def finish(self, index: int, reason: str) -> list[dict[str, Any]]:
        # An empty text, not an empty delta: the tutorial's script adds it to a string.
        return _choices(index, _reason(reason, index in self._called), content="")

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        used = [answer.usage for answer in answers]
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        spent = {"usage": usage(used), "timings": timings(used[0])}
        return self.whole("chat.completion", choices, **spent)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        said = answer.said
        calls = [_call(call) for call in said.calls] or None
        # None only for those who know of tools: ms-swift's client wants a text.
        content = None if self._tools and not said.content else said.content
        message = {"role": "assistant", "content": content, "tool_calls": calls}
        return {
            "index": index,
            "message": message | _reasoning(said.reasoning),
            "finish_reason": _reason(answer.finish_reason, bool(calls)),
            "logprobs": {"content": tokens(answer.logprobs)} if answer.logprobs else None,
        }


def _choices(index: int, finish: str | None = None, **delta: Any) -> list[dict[str, Any]]:
    return [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}]


def _reasoning(text: str) -> dict[str, Any]:
    """By both of the names that clients look for."""
    return {"reasoning_content": text, "reasoning": text} if text else {}


def _call(call: CallDelta) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_delta(call: CallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {"index": call.index, **_call(call)}


def _reason(reason: str, called: bool) -> str:
    return "tool_calls" if called and reason == "stop" else reason
