"""GET /v1/models, /v1/models/{id} and /health: what is served and how it is."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.server.replies import JSON, shown
from portable.server.served import Served
from portable.server.state import State


async def list_models(request: Request) -> Response:
    """All of them, the default first. Wakes none."""
    state: State = request.app.state.portable
    data = [describe(served) for served in state.fleet.models]
    return JSON({"object": "list", "data": data})


async def one_model(request: Request) -> Response:
    """The model of that id, suffix or alias."""
    state: State = request.app.state.portable
    return JSON(describe(state.fleet.resolve(request.path_params["id"])))


async def health(request: Request) -> Response:
    """200 when the default model answers; 503 while it is loading, and when it cannot be loaded.

    Asleep, it answers as well: whoever asks it wakes it.
    """
    state: State = request.app.state.portable
    served = state.fleet.default
    process = served.process
    match served.state:
        case "failed":
            return JSON({"status": "failed", "message": shown(str(process.failure))}, 503)
        case "loading":
            return JSON({"status": "loading", "progress": round(process.progress, 2)}, 503)
    return JSON({"status": "ok"})


def describe(served: Served) -> dict[str, Any]:
    """One entry of the model list; `meta` says what ran where."""
    process = served.process
    info = process.info
    entry: dict[str, Any] = {
        "id": served.id,
        "object": "model",
        "created": served.created,
        "owned_by": "portable",
    }
    if info is None:
        return entry | {"meta": {"state": served.state}}
    meta = {
        "state": served.state,
        "task": info.task,
        "running": process.running,
        "restarts": process.restarts,
        "n_ctx": info.context,
        "n_ctx_train": info.trained_context,
        "n_params": info.parameters,
        "n_vocab": info.vocabulary,
        "size": info.size,
        "description": info.description,
        "placement": info.placement,
        "tokens_per_second": round(1 / process.token_seconds, 1) if process.token_seconds else None,
        "threads": process.beat.threads if process.beat else info.threads,
        "threads_reason": process.beat.threads_reason if process.beat else "",
    }
    return entry | {"meta": meta}
