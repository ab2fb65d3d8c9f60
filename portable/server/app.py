"""The application: routes, the guard before them, and the models behind them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import Route

from portable.server import static
from portable.server.api.chat import chat_completions
from portable.server.api.completions import completions
from portable.server.api.embeddings import embeddings
from portable.server.api.loading import list_running, load_model, unload_model
from portable.server.api.messages import create_message
from portable.server.api.metrics import metrics
from portable.server.api.models import health, list_models, one_model
from portable.server.api.props import props
from portable.server.api.rerank import rerank
from portable.server.api.responses import create_response, delete_response, get_response
from portable.server.api.tokens import apply_template, detokenize, input_tokens, tokenize
from portable.server.config import ServerConfig
from portable.server.fleet import Fleet
from portable.server.guard import PUBLIC, Guard
from portable.server.metrics import Metrics
from portable.server.model import ModelProcess
from portable.server.observe import Observer, tell
from portable.server.replies import HANDLERS, from_defect
from portable.server.served import ModelConfig, Served
from portable.server.state import State

_RESPONSES = ("/v1/responses", "/responses")
Started = Callable[[Fleet], None]
_RERANK = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")


def make_app(models: Sequence[ModelConfig], config: ServerConfig, started: Started) -> Starlette:
    """One application for these models. `started` gets them when the lifespan begins."""
    served = [Served(m, ModelProcess(m.engine, config.silent_seconds)) for m in models]
    fleet = Fleet(served, any_model=config.any_model)
    state = State(config, fleet, Metrics(fleet))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        fleet.start()
        started(fleet)
        telling = asyncio.create_task(tell(state.metrics.totals, config.log_seconds))
        try:
            yield
        finally:
            telling.cancel()
            await fleet.stop()

    app = Starlette(
        routes=routes(),
        middleware=[
            Middleware(Observer, metrics=state.metrics),
            Middleware(Guard, config=config),
            # Inside the guard, so that this answer is named too.
            Middleware(ServerErrorMiddleware, handler=from_defect),
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    # A redirect would name the scheme and the Host that a proxy made up.
    app.router.redirect_slashes = False
    app.state.portable = state
    return app


def routes() -> list[Route]:
    """Every path that is answered, and by whom."""
    return [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/messages", create_message, methods=["POST"]),
        *(Route(path, create_response, methods=["POST"]) for path in _RESPONSES),
        *(Route(path + "/{id}", get_response, methods=["GET"]) for path in _RESPONSES),
        *(Route(path + "/{id}", delete_response, methods=["DELETE"]) for path in _RESPONSES),
        *(Route(path, embeddings, methods=["POST"]) for path in ("/v1/embeddings", "/embeddings")),
        *(Route(path, rerank, methods=["POST"]) for path in _RERANK),
        Route("/v1/chat/completions/input_tokens", input_tokens, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/apply-template", apply_template, methods=["POST"]),
        Route("/props", props, methods=["GET"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{id:path}", one_model, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/api/ps", list_running, methods=["GET"]),
        *(Route(path, load_model, methods=["POST"]) for path in _paths("load")),
        *(Route(path, unload_model, methods=["POST"]) for path in _paths("unload")),
        *(Route(path, health, methods=["GET"]) for path in sorted(PUBLIC)),
        *static.ROUTES,
    ]


def _paths(verb: str) -> list[str]:
    """llama-server's way to say it, LM Studio's and llama-swap's; the model in the body or not."""
    bases = [f"{base}/{verb}" for base in ("/models", "/api/v1/models", "/api/models")]
    return [path for base in bases for path in (base, base + "/{id:path}")]
