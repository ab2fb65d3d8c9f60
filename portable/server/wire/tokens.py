"""The bodies of POST /tokenize, /detokenize, /apply-template and …/input_tokens."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from portable.server.wire.chat import ChatMessage, ChatRequest
from portable.server.wire.sampling import TokenId


class TokenizeRequest(ChatRequest, kw_only=True):
    """A text (`content`, or vLLM's `prompt`), or a conversation.

    `add_special` frames a text as the model wants it; `parse_special` lets it name control tokens.
    """

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)] | None = None  # type: ignore[assignment]
    content: str | None = None
    prompt: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[TokenId]
    model: str | None = None
