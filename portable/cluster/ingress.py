"""What stands before the replicas: reads a request, tells its session, passes the answer on."""

from __future__ import annotations

import ipaddress
import logging
import re
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portable.cluster.metrics import merged
from portable.cluster.router import BOUND
from portable.cluster.session import session
from portable.errors import EngineError, InvalidRequest, PortableError, QueueFull
from portable.server import sse
from portable.server.api.responses import HOME
from portable.server.config import ServerConfig
from portable.server.guard import PUBLIC, Guard
from portable.server.replies import HANDLERS, anthropic_error, error_body, refuse

log = logging.getLogger("ray.serve")  # as Ray wants it of what runs in its processes

# Of a request's scope what can be sent to another process.
_SCOPE: tuple[str, ...] = ("type", "http_version", "method", "scheme", "path", "raw_path")
_SCOPE += ("query_string", "root_path", "headers", "client", "server")
_BY_HAND = re.compile(r"(/api(/v1)?)?/models/(un)?load(/.*)?")
_TRIES = 2
_SECONDS = 5.0


class Ingress:
    """Ray Serve's ingress. `servers` is Ray's handle of the replicas. Stateless: have several."""

    def __init__(self, servers: Any, config: ServerConfig) -> None:
        self._servers = servers.options(stream=True)
        self._config = config

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray asks for it once."""
        return Starlette(
            routes=[Route("/metrics", self._metrics), Mount("/", self._pass_on)],
            # The replicas have the guard, too; here it refuses before a body is read.
            middleware=[Middleware(Guard, config=self._config), Middleware(_Local, self._config)],
            exception_handlers=HANDLERS,
        )

    async def _metrics(self, _: Request) -> Response:
        """All replicas': whom a request for them would reach is chance."""
        try:
            told = await self._servers.broadcast("metrics").results_async(timeout_s=_SECONDS)
        except (RayError, RayServeException, TimeoutError) as error:
            log.warning("metrics of all replicas: %s", type(error).__name__)
            raise EngineError("not all replicas answered", hint="ask again") from None
        return Response(merged(dict(told)), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _BY_HAND.fullmatch(scope["path"]):
            raise InvalidRequest("a replica loads a model when it is asked for: ask for it")
        body = await Request(scope, receive).body()
        found = session(scope["path"], Headers(scope=scope), body)
        asked = {key: scope[key] for key in _SCOPE}
        if found.bound:
            asked[HOME] = found.key
        answer = _Answer(scope["path"], send)
        servers = self._servers.options(session_id=found.key + BOUND * found.bound)
        while not await answer.passed_on(servers.answer.remote(asked, body)):
            log.warning("a replica died; its request is sent again")


class _Local:
    """Without a key only this machine is served: Ray may listen to anybody."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._open = bool(config.api_keys) or config.insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not self._may(scope):
            message = "without an API key only this machine is served"
            app = refuse(403, message, code="api_key_required")
        await app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        client = scope["client"]
        known = client and ipaddress.ip_address(client[0]).is_loopback
        return bool(self._open or known or scope["path"] in PUBLIC)


class _Answer:
    """One answer on its way to the client, which may take a second try until it has begun."""

    def __init__(self, path: str, send: Send) -> None:
        self._path = path
        self._send = send
        self._started: Message | None = None
        self._left = _TRIES

    async def passed_on(self, messages: Any) -> bool:
        """To its end, or False if another try may do better. Raises QueueFull or EngineError."""
        self._left -= 1
        try:
            async for message in messages:
                self._started = self._started or message
                await self._send(message)
        except BackPressureError:
            raise QueueFull("all replicas are busy", hint="try again in a moment") from None
        except (RayError, RayServeException) as error:
            log.warning("a replica broke off: %s", type(error).__name__)
            return await self._broken_off()
        except BaseException:  # the client left
            messages.cancel()
            raise
        return True

    async def _broken_off(self) -> bool:
        error = EngineError("the replica died", hint="send the request again")
        if self._started is None:
            if self._left:
                return False
            raise error
        kind = Headers(raw=self._started["headers"]).get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise error  # the connection is closed in the midst of the body
        event = _event(self._path, error)
        await self._send({"type": "http.response.body", "body": event, "more_body": False})
        return True


def _event(path: str, error: PortableError) -> bytes:
    """An error within a stream, as the API wants it that was asked."""
    if path.startswith("/v1/messages"):
        return sse.named_event(anthropic_error(str(error)))
    if path.endswith("/responses"):
        told = {"type": "error", "code": error.code, "message": str(error), "param": None}
        return sse.named_event(told)
    return sse.event(error_body(str(error), code=error.code))
