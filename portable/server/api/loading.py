"""What is loaded, and loading and unloading by hand: GET /api/ps, POST /models/load and /unload."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from portable.server.api.models import describe
from portable.server.body import read_body
from portable.server.replies import JSON
from portable.server.served import Served
from portable.server.state import State


class ModelRequest(msgspec.Struct):
    """Which model; None is the default one."""

    model: str | None = None


async def list_running(request: Request) -> Response:
    """The loaded models, and when each is going to be unloaded. Wakes none."""
    state: State = request.app.state.portable
    loaded = [served for served in state.fleet.models if served.process.is_started]
    return JSON({"models": [_running(served) for served in loaded]})


async def load_model(request: Request) -> Response:
    """Answers once the model is loaded."""
    state, served = await _named(request)
    await state.fleet.load(served)
    return JSON(describe(served))


async def unload_model(request: Request) -> Response:
    """Answers once the model has answered who was there, and its memory is free."""
    state, served = await _named(request)
    await state.fleet.unload(served)
    return JSON(describe(served))


async def _named(request: Request) -> tuple[State, Served]:
    """The model that the path names, or the body."""
    state: State = request.app.state.portable
    said = (await read_body(request, ModelRequest)).model if await request.body() else None
    return state, state.fleet.resolve(request.path_params.get("id") or said)


def _running(served: Served) -> dict[str, Any]:
    """`size` is all that it takes, `size_vram` what of it lies on other devices than the host."""
    kept, info = served.keep_alive, served.process.info
    left = None if kept is None else max(0.0, served.used_at + kept - time.monotonic())
    return {
        "name": served.id,
        "model": served.id,
        "busy": served.is_busy,
        "seconds_until_unloaded": None if left is None else round(left, 1),
        **describe(served)["meta"],
        "size": sum(place.bytes for place in info.places) if info else 0,
        "size_vram": sum(served.memory.values()),
    }
