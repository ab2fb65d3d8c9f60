"""GET /metrics, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from portable.server.state import State


async def metrics(request: Request) -> Response:
    """Wakes no model."""
    state: State = request.app.state.portable
    return Response(state.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})
