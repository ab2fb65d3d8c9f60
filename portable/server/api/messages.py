"""POST /v1/messages and /v1/messages/count_tokens, Anthropic's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from portable.errors import InvalidRequest
from portable.server import params
from portable.server.anthropic import MessageLayout
from portable.server.api.chat import wanted
from portable.server.api.tokens import prompt_tokens
from portable.server.body import read_body
from portable.server.generate import respond
from portable.server.replies import JSON
from portable.server.turns import NAMES, as_chat
from portable.server.wire.messages import CountRequest, MessageRequest


async def create_message(request: Request) -> Response:
    """A whole message, or with `stream` its events as they come."""
    asked = await read_body(request, MessageRequest)
    try:
        chat = wanted(as_chat(asked))
        return await respond(request, chat, lambda model: MessageLayout(model, asked.max_tokens))
    except InvalidRequest as error:
        raise params.in_own_words(error, NAMES) from None


async def count_tokens(request: Request) -> Response:
    """How many tokens the model would read."""
    asked = await read_body(request, CountRequest)
    try:
        count = await prompt_tokens(request, as_chat(asked), "messages")
    except InvalidRequest as error:
        raise params.in_own_words(error, NAMES) from None
    return JSON({"input_tokens": count})
