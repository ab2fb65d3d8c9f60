"""GET /props: what a model is, what its template can do, how it runs, and why so."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable import __version__, facts
from portable.engine import protocol
from portable.engine.places import Place
from portable.server.api.models import describe
from portable.server.query import query
from portable.server.replies import JSON
from portable.server.served import Served
from portable.server.state import State


async def props(request: Request) -> Response:
    """Of the model that `?model=` names, else the default one. Wakes none; names no path."""
    state: State = request.app.state.portable
    model = request.query_params.get("model")
    served = state.fleet.resolve(model)
    told = _known(served)
    if served.process.ready.is_set():
        _, found = await query(request, model, protocol.Describe())
        told |= {
            "chat_template": found.chat_template or "",
            "chat_template_caps": facts.template(found.chat_template) or {},
            "bos_token": found.bos_token,
            "eos_token": found.eos_token,
        }
    return JSON(told)


def _known(served: Served) -> dict[str, Any]:
    process, info = served.process, served.process.info
    told = {
        "model_alias": served.id,
        "total_slots": process.config.slots,
        "modalities": {"vision": False, "audio": False},
        "build_info": f"portable-{__version__}",
        "is_sleeping": served.state == "unloaded",
        **describe(served)["meta"],
    }
    if info is None:
        return told
    return told | {
        "default_generation_settings": {"n_ctx": info.context, "params": info.sampling},
        "architecture": info.architecture,
        "devices": [_device(place, served.memory) for place in info.places],
        "layers": info.layers,
        "offloaded_layers": info.offloaded,
        "offload_reason": process.offload_reason,
        "findings": [{"code": each.code, "message": str(each)} for each in process.findings],
        "load_seconds": round(info.load_seconds, 2),
    }


def _device(place: Place, memory: dict[str, int]) -> dict[str, Any]:
    """What lies on a device, in bytes; `memory_free` is what loading left."""
    return {
        "name": place.device,
        "description": place.description,
        "type": place.kind,
        "layers": place.layers,
        "weights": place.weights,
        "cache": place.cache,
        "compute": place.compute,
        "memory": memory.get(place.device, place.bytes),
        "memory_free": place.free,
        "memory_total": place.total,
    }
