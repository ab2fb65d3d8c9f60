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
from portable.server.config import ServerConfig
from portable.server.fleet import Fleet
from portable.server.guard import Guard
from portable.server.metrics import Metrics
from portable.server.model import ModelProcess
from portable.server.observe import Observer, tell
from portable.server.openapi import openapi
from portable.server.replies import HANDLERS, from_defect
from portable.server.routes import ENDPOINTS, Endpoint
from portable.server.served import ModelConfig, Served
from portable.server.state import State

Started = Callable[[Fleet], None]


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
    endpoints = (*ENDPOINTS, Endpoint("GET", ("/openapi.json",), openapi))
    return [*(route for endpoint in endpoints for route in endpoint.routes()), *static.ROUTES]
