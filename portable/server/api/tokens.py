"""What a model reads: POST /tokenize, /detokenize, /apply-template and …/input_tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine import protocol
from portable.engine.sequence import SamplingParams
from portable.errors import InvalidRequest
from portable.server.body import read_body
from portable.server.conversation import conversation
from portable.server.query import MakeAsk, query
from portable.server.replies import JSON
from portable.server.served import Served
from portable.server.wire.chat import ChatRequest
from portable.server.wire.tokens import DetokenizeRequest, TokenizeRequest


async def tokenize(request: Request) -> Response:
    """Token ids of a text or a conversation; `with_pieces`, with what each stands for."""
    asked = await read_body(request, TokenizeRequest)
    text = asked.content if asked.content is not None else asked.prompt
    if (text is None) == (asked.messages is None):
        raise InvalidRequest("content: one of `content` and `messages` is needed", param="content")
    ask: protocol.Ask | MakeAsk
    if text is not None:
        ask = protocol.Tokenize(text, asked.add_special, asked.parse_special)
    else:
        ask = _render(asked)
    served, found = await query(request, asked.model, ask, "content")
    tokens: list[Any] = found.ids
    if asked.with_pieces:
        if isinstance(found, protocol.Prompt):
            _, found = await query(request, asked.model, protocol.Detokenize(found.ids))
        tokens = [{"id": id, "piece": _piece(piece)} for id, piece in zip(found.ids, found.pieces)]
    info = served.process.info
    limit = {"max_model_len": info.context} if info else {}
    return JSON({"tokens": tokens, "count": len(tokens), **limit})


async def detokenize(request: Request) -> Response:
    """The text of token ids; control tokens as their names."""
    asked = await read_body(request, DetokenizeRequest)
    _, found = await query(request, asked.model, protocol.Detokenize(asked.tokens))
    return JSON({"content": b"".join(found.pieces).decode("utf-8", "replace")})


async def apply_template(request: Request) -> Response:
    """A conversation as the model reads it."""
    asked = await read_body(request, ChatRequest)
    _, found = await query(request, asked.model, _render(asked))
    return JSON({"prompt": found.text})


async def input_tokens(request: Request) -> Response:
    """How many tokens a chat request is."""
    asked = await read_body(request, ChatRequest)
    count = await prompt_tokens(request, asked, "messages")
    return JSON({"object": "response.input_tokens", "input_tokens": count})


async def prompt_tokens(request: Request, asked: ChatRequest, field: str) -> int:
    """How many tokens its model reads of a chat request, whose messages came in `field`."""
    _, found = await query(request, asked.model, _render(asked), field)
    return len(found.ids)


def _render(asked: ChatRequest) -> Callable[[Served], protocol.Render]:
    """As an answer would be asked for."""
    wanted = conversation(asked)

    def ask(served: Served) -> protocol.Render:
        command = served.speech.command("", SamplingParams(), wanted)
        thinking = command.params.thinking
        return protocol.Render(command.messages or [], command.options, command.begun, thinking)

    return ask


def _piece(piece: bytes) -> str | list[int]:
    """A text, or its bytes where they are only part of a character, as llama-server has it."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
