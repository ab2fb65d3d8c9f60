"""Every endpoint: its paths, who answers, and the struct of its body. One table, read twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from portable.server.api import loading, models, tokens
from portable.server.api.chat import chat_completions
from portable.server.api.completions import completions
from portable.server.api.embeddings import embeddings
from portable.server.api.messages import count_tokens, create_message
from portable.server.api.metrics import metrics
from portable.server.api.props import props
from portable.server.api.rerank import rerank
from portable.server.api.responses import (
    count_response_tokens,
    create_response,
    delete_response,
    get_response,
)
from portable.server.guard import PUBLIC
from portable.server.wire.chat import ChatRequest
from portable.server.wire.completions import CompletionRequest
from portable.server.wire.embeddings import EmbeddingsRequest, RerankRequest
from portable.server.wire.messages import CountRequest, MessageRequest
from portable.server.wire.responses import ResponseRequest
from portable.server.wire.tokens import DetokenizeRequest, TokenizeRequest

Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`paths` mean the same; the first is the usual one. `body` None: none is read."""

    method: str
    paths: tuple[str, ...]
    answer: Answer
    body: type[msgspec.Struct] | None = None

    def routes(self) -> list[Route]:
        return [Route(path, self.answer, methods=[self.method]) for path in self.paths]


def _hand(verb: str) -> tuple[str, ...]:
    """llama-server's way to say it, LM Studio's and llama-swap's; the model in the body or not."""
    bases = [f"{base}/{verb}" for base in ("/models", "/api/v1/models", "/api/models")]
    return tuple(path for base in bases for path in (base, base + "/{id:path}"))


_RESPONSES = ("/v1/responses", "/responses")
_RESPONSE_TOKENS = tuple(path + "/input_tokens" for path in _RESPONSES)
_ONE_RESPONSE = tuple(path + "/{id}" for path in _RESPONSES)
_RERANK = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")

ENDPOINTS = (
    Endpoint("POST", ("/v1/chat/completions", "/chat/completions"), chat_completions, ChatRequest),
    Endpoint("POST", ("/v1/chat/completions/input_tokens",), tokens.input_tokens, ChatRequest),
    Endpoint("POST", ("/v1/completions",), completions, CompletionRequest),
    Endpoint("POST", ("/v1/messages",), create_message, MessageRequest),
    Endpoint("POST", ("/v1/messages/count_tokens",), count_tokens, CountRequest),
    Endpoint("POST", _RESPONSES, create_response, ResponseRequest),
    Endpoint("POST", _RESPONSE_TOKENS, count_response_tokens, ResponseRequest),
    Endpoint("GET", _ONE_RESPONSE, get_response),
    Endpoint("DELETE", _ONE_RESPONSE, delete_response),
    Endpoint("POST", ("/v1/embeddings", "/embeddings"), embeddings, EmbeddingsRequest),
    Endpoint("POST", _RERANK, rerank, RerankRequest),
    Endpoint("POST", ("/tokenize",), tokens.tokenize, TokenizeRequest),
    Endpoint("POST", ("/detokenize",), tokens.detokenize, DetokenizeRequest),
    Endpoint("POST", ("/apply-template",), tokens.apply_template, ChatRequest),
    Endpoint("GET", ("/props",), props),
    Endpoint("GET", ("/v1/models", "/models"), models.list_models),
    Endpoint("GET", ("/v1/models/{id:path}",), models.one_model),
    Endpoint("GET", ("/metrics",), metrics),
    Endpoint("GET", ("/api/ps",), loading.list_running),
    Endpoint("POST", _hand("load"), loading.load_model, loading.ModelRequest),
    Endpoint("POST", _hand("unload"), loading.unload_model, loading.ModelRequest),
    Endpoint("GET", ("/health", *sorted(PUBLIC - {"/health"})), models.health),
)
