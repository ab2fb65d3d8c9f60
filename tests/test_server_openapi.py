"""The description of the endpoints: complete, and what schemathesis makes of it is answered."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.core.transport import Response as Reply
from serving import check_error, running
from starlette.applications import Starlette
from test_server_unit import INFO

from portable.engine import protocol
from portable.engine.config import EngineConfig
from portable.engine.sequence import Delta, Usage
from portable.server import run, static
from portable.server.app import make_app
from portable.server.body import unread
from portable.server.config import ServerConfig
from portable.server.fleet import Fleet
from portable.server.model import ModelProcess
from portable.server.openapi import describe
from portable.server.routes import ENDPOINTS
from portable.server.served import ModelConfig, Served
from portable.server.state import State
from portable.server.wire.chat import ChatRequest
from portable.server.wire.parse import parse


class Ready(ModelProcess):
    """A process that is none: every request is answered at once, with one word."""

    def start(self, *, trial: bool = False) -> None:
        self.info = INFO
        self.ready.set()
        self.send_waiting()

    @property
    def is_started(self) -> bool:
        return self.ready.is_set()

    async def unload(self) -> None:
        self.ready.clear()

    def _send(self, command: protocol.Command) -> None:
        protocol.frame(command)
        if isinstance(command, protocol.Generate):
            self._handle(protocol.Accepted(command.id, 3))
            self._deliver(Delta(command.id, "word"))
            self._deliver(Delta(command.id, "", "stop", Usage(3, 0, 1)))
        elif isinstance(command, protocol.Query):
            self._handle(protocol.Failed(command.id, "InvalidRequest", "not here", "", None))


def fake_app() -> Starlette:
    config = ModelConfig(engine=EngineConfig(Path("fake.gguf")))
    settings = ServerConfig()
    app = make_app([config], settings, lambda _: None)
    served = Served(config, Ready(config.engine))
    fleet = Fleet([served])
    state: State = app.state.portable
    app.state.portable = State(**{f: getattr(state, f) for f in state.__slots__} | {"fleet": fleet})
    return app


DOCUMENT = describe(ENDPOINTS)
# Other paths of the same endpoint would be tried with the same bodies.
ONCE = describe([replace(endpoint, paths=endpoint.paths[:1]) for endpoint in ENDPOINTS])
api = schemathesis.openapi.from_dict(ONCE)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The application on a real socket, without a model."""
    config = run.settings(fake_app(), ServerConfig())
    config.lifespan = "off"
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@api.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_fits_the_description_is_answered_or_named(case: Any, url: str) -> None:
    reply: Reply = case.call(base_url=url, timeout=20)
    assert reply.status_code in (200, 400, 403, 404, 405, 413, 415), (case.body, reply.text)
    if reply.status_code >= 400 and case.method != "HEAD" and "/messages" not in case.path:
        error = json.loads(reply.content)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "Traceback" not in error["message"] and "/" + "site-packages" not in error["message"]


def test_every_route_is_described() -> None:
    app = fake_app()
    known = {(method.upper(), path) for path, ops in DOCUMENT["paths"].items() for method in ops}
    for route in app.routes:
        path = route.path.replace(":path}", "}")  # type: ignore[attr-defined]
        for method in route.methods - {"HEAD"}:  # type: ignore[attr-defined]
            assert (method, path) in known or path == "/openapi.json" or route in static.ROUTES
    for operations in DOCUMENT["paths"].values():
        assert all(operation["summary"] for operation in operations.values())


def test_it_is_served_and_strictness_names_what_is_unknown() -> None:
    with running(strict=True) as server:
        told = server.get("/openapi.json").json()
        assert told["openapi"].startswith("3.1") and "/v1/chat/completions" in told["paths"]
        temperature = told["components"]["schemas"]["ChatRequest"]["properties"]["temperature"]
        assert {"type": "number", "minimum": 0, "maximum": 2} in temperature["anyOf"]
        assert server.chat(temperature=0).status_code == 200
        error = check_error(server.chat(temprature=0, metadata={"a": 1}), 400, "temprature")
        assert "temprature, metadata" in error["message"]
        assert server.chat(user=None).status_code == 200
        check_error(server.post("/models/load", {"model": None, "modle": "x"}), 400, "modle")


def test_unknown_fields_are_found_at_any_depth() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]}
    body |= {"stream_options": {"include_usage": True, "y": []}, "z": None}  # type: ignore[dict-item]
    asked = parse(json.dumps(body).encode(), ChatRequest)
    assert list(unread(body, asked)) == ["messages[0].content[0].x", "stream_options.y"]
