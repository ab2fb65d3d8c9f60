"""The application: routes, the guard before them, and the model process behind them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import Route

from portable.engine.config import EngineConfig
from portable.server.chat import chat_completions
from portable.server.completions import completions
from portable.server.config import ServerConfig
from portable.server.guard import PUBLIC, Guard
from portable.server.model import ModelProcess
from portable.server.models import health, list_models, one_model
from portable.server.replies import HANDLERS, from_defect
from portable.server.state import State

Started = Callable[[ModelProcess], None]


def make_app(engine: EngineConfig, config: ServerConfig, started: Started) -> Starlette:
    """One application for one model. `started` gets the process that the lifespan begins."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        model = ModelProcess(engine, config.silent_seconds)
        app.state.portable = State(config, model)
        model.start()
        started(model)
        try:
            yield
        finally:
            await model.stop()

    routes = [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{id:path}", one_model, methods=["GET"]),
        *(Route(path, health, methods=["GET"]) for path in sorted(PUBLIC)),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Guard, config=config),
            # Inside the guard, so that this answer is named too.
            Middleware(ServerErrorMiddleware, handler=from_defect),
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
