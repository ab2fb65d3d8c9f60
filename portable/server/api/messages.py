"""POST /v1/messages, Anthropic's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from portable.errors import InvalidRequest
from portable.server import params
from portable.server.anthropic import MessageLayout
from portable.server.api.chat import wanted
from portable.server.body import read_body
from portable.server.generate import respond
from portable.server.turns import NAMES, as_chat
from portable.server.wire.messages import MessageRequest


async def create_message(request: Request) -> Response:
    """A whole message, or with `stream` its events as they come."""
    asked = await read_body(request, MessageRequest)
    try:
        chat = wanted(as_chat(asked))
        return await respond(request, chat, lambda model: MessageLayout(model, asked.max_tokens))
    except InvalidRequest as error:
        raise params.in_own_words(error, NAMES) from None
