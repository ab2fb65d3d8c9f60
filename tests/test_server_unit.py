"""The server on a process that is none: loading, waiting, silence and races, step by step."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from portable.engine import protocol
from portable.engine.backend import ModelInfo
from portable.engine.config import EngineConfig
from portable.engine.findings import Finding
from portable.engine.sequence import Delta, TokenLogprob, Usage
from portable.errors import EngineError, ModelFileError
from portable.server.app import make_app
from portable.server.config import ServerConfig
from portable.server.fleet import Fleet
from portable.server.guard import Guard
from portable.server.model import ModelProcess
from portable.server.served import ModelConfig, Served
from portable.server.state import State
from portable.server.stream import Stream
from portable.server.wire.completions import CompletionRequest
from portable.server.wire.parse import parse

INFO = ModelInfo(
    *("fake", "llama", "fake model", 1, 1, 100, 100, 256, 1, 0.1),
    sampling={"temperature": 0.3},
)
CHAT = "/v1/chat/completions"
SCORES = protocol.Scores([0.5], [0.5], [1])
HI = {"messages": [{"role": "user", "content": "hi"}]}


class FakeProcess(ModelProcess):
    """Keeps what is sent to it; a test plays the child's part."""

    def __init__(self, **options: Any) -> None:
        super().__init__(EngineConfig(Path("fake.gguf"), **options))
        self.sent: list[Any] = []

    @property
    def is_started(self) -> bool:
        return True

    def _send(self, command: protocol.Command) -> None:
        protocol.frame(command)
        self.sent.append(command)

    def hear(self, *events: protocol.Event) -> None:
        for event in events:
            assert self._handle(event)

    def load(self) -> None:
        self.hear(protocol.Loading(0.5), protocol.Ready(INFO, "CPU", "{{ messages }}"))

    def say(self, *texts: str, end: bool = True) -> None:
        """Answer the last request."""
        id = self.last.id
        self.hear(protocol.Accepted(id, 5))
        self.hear(protocol.Deltas([Delta(id, text) for text in texts]))
        if end:
            self.hear(protocol.Deltas([Delta(id, "", "stop", Usage(5, 0, len(texts)))]))

    @property
    def last(self) -> protocol.Generate:
        found = [command for command in self.sent if isinstance(command, protocol.Generate)]
        return found[-1]

    @property
    def cancelled(self) -> list[str]:
        return [command.id for command in self.sent if isinstance(command, protocol.Cancel)]


class Call:
    """One request, straight into the application; `leave` closes the connection."""

    def __init__(self, app: Any, path: str = CHAT, body: Any = HI, method: str = "POST") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.gone = asyncio.Event()
        self._inbox = [{"type": "http.request", "body": json.dumps(body).encode()}]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    def leave(self) -> None:
        self.gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._inbox:
            return self._inbox.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        self.body += message.get("body", b"")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[Any]:
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: {")]
        return [json.loads(line) for line in lines]


Script = Callable[[Any, FakeProcess], Awaitable[None]]


def play(script: Script, *, slots: int = 4, queue: int = 64, **config: Any) -> None:
    """Run a script on a fresh application, in asyncio's debug mode; nothing may be left over."""

    async def main() -> None:
        own = {name: config.pop(name) for name in ("sampling", "fallback") if name in config}
        settings = ServerConfig(**config)
        model = FakeProcess(slots=slots, queue=queue)
        served = Served(ModelConfig(engine=model.config, **own), model)
        app = make_app([served.config], settings, lambda _: None)
        state, fleet = app.state.portable, Fleet([served])
        app.state.portable = State(settings, fleet, state.metrics)
        await asyncio.wait_for(script(app, model), 20)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left
        assert not model._streams and not model._unsent

    asyncio.run(main(), debug=True)


async def turns(count: int = 30) -> None:
    """Let everything that can happen happen."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_loading_is_told_and_waited_for() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        model.hear(protocol.Loading(0.25))
        health = Call(app, "/health", method="GET")
        models = Call(app, "/v1/models", method="GET")
        asked = Call(app)
        await turns()
        assert (health.status, health.json) == (503, {"status": "loading", "progress": 0.25})
        assert models.json["data"][0]["meta"] == {"state": "loading"}
        assert not model.sent and not asked.task.done()
        model.load()
        model.say("hello")
        await asked.task
        assert asked.json["choices"][0]["message"]["content"] == "hello"

    play(script)


def test_gpus_that_are_not_used_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    process = FakeProcess()
    missed = Finding("no_backend", "an AMD GPU is not used", "build it")
    slow = Finding("no_backend", "an Intel GPU is not used", note=True)
    with caplog.at_level("INFO", "portable"):
        process.hear(protocol.Ready(INFO, "CPU", "{{ messages }}", [missed, slow]))
    warned = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warned == ["an AMD GPU is not used; build it"] and slow.what in caplog.messages


def test_the_models_own_sampling_holds_for_those_who_waited_too() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        early = Call(app)
        await turns()
        model.load()
        assert model.last.params.temperature == 0.3
        model.say("a")
        await early.task
        late = Call(app, body=HI | {"temperature": 0.7, "top_k": -1})
        await turns()
        assert (model.last.params.temperature, model.last.params.top_k) == (0.7, 0)
        assert model.last.params.top_p == 0.5
        model.say("b")
        await late.task

    play(script, sampling={"top_p": 0.5}, fallback={"temperature": 0.9, "top_k": 3})


def test_whoever_does_not_want_to_wait_is_told_when_to_come_back() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        call = Call(app)
        await call.task
        assert (call.status, call.json["error"]["code"]) == (503, "model_loading")
        assert (call.headers["retry-after"], call.headers["x-should-retry"]) == ("2", "true")

    play(script, fail_while_loading=True)


def test_the_full_queue_says_when_a_place_may_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        now = [100.0]
        model.load()
        monkeypatch.setattr("portable.server.model.time.monotonic", lambda: now[0])
        for _ in range(3):  # one answer each seven seconds
            call = Call(app)
            await turns()
            now[0] += 7
            model.say("a")
            await call.task
        waiting = [Call(app), Call(app)]
        await turns()
        refused = Call(app)
        await refused.task
        assert (refused.status, refused.headers["retry-after"]) == (429, "5")
        for call in waiting:
            call.leave()
            await call.task

    play(script, slots=1, queue=1)


def test_a_load_that_fails_fails_all_who_wait() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        whole, stream = Call(app), Call(app, body=HI | {"stream": True})
        await turns()
        model.failure = ModelFileError("/home/Mary Smith/models/x.gguf is not a GGUF file")
        model.gone.set()
        model.fail_all(model.failure)
        await asyncio.gather(whole.task, stream.task)
        assert [call.json["error"]["code"] for call in (whole, stream)] == [
            "invalid_model_file"
        ] * 2
        late, health = Call(app), Call(app, "/health", method="GET")
        await asyncio.gather(late.task, health.task)
        assert (late.status, health.status) == (500, 503)
        assert health.json == {"status": "failed", "message": "x.gguf is not a GGUF file"}
        assert late.json["error"]["message"] == health.json["message"]

    play(script)


def test_a_stream_begins_while_the_model_still_loads_and_errors_come_as_events() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        call = Call(app, body=HI | {"stream": True})
        await asyncio.sleep(0.1)
        assert call.chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        model.load()
        model.hear(
            protocol.Failed(model.last.id, "ContextLengthExceeded", "too long", "", "messages")
        )
        await call.task
        assert call.chunks[-1]["error"]["code"] == "context_length_exceeded"
        assert call.body.endswith(b"data: [DONE]\n\n")

    play(script, status_after_seconds=0.02)


def test_where_the_models_lie_is_not_told_to_a_stream_either() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        model.load()
        call = Call(app, body=HI | {"stream": True})
        await turns()
        model.say("a", end=False)
        await turns()
        words = r"cannot read C:\models\x.gguf or '/srv/y.gguf': 3/4 tokens"
        error = ("backend_error", words)
        model.hear(protocol.Deltas([Delta(model.last.id, "", "error", None, error)]))
        await call.task
        assert call.chunks[-1]["error"]["message"] == "cannot read x.gguf or 'y.gguf': 3/4 tokens"

    play(script)


def test_silence_is_filled_with_empty_text() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        model.load()
        call = Call(app, body=HI | {"stream": True})
        await turns()
        model.say("a", end=False)
        await asyncio.sleep(0.2)
        model.say("b")
        await call.task
        texts = [chunk["choices"][0]["delta"]["content"] for chunk in call.chunks]
        assert texts[1] == "a" and "b" in texts[4:] and "".join(texts) == "ab"
        assert set(texts) == {"", "a", "b"}

    play(script, keep_alive_seconds=0.02)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("when", ["loading", "sent", "accepted", "answering", "ended"])
def test_a_client_that_leaves_is_forgotten(stream: bool, when: str) -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        if when != "loading":
            model.load()
        call = Call(app, body=HI | {"stream": stream})
        await turns()
        if when in ("accepted", "answering", "ended"):
            model.hear(protocol.Accepted(model.last.id, 5))
        if when in ("answering", "ended"):
            await turns()
            model.say("a", end=when == "ended")
        call.leave()
        await call.task
        if when == "loading":
            model.load()
            assert not model.sent, "nobody waits for it any more"
        elif when != "ended":
            assert model.cancelled == [model.last.id]
        await turns()

    play(script)


def test_a_refusal_comes_with_its_status_also_for_a_stream() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        model.load()
        for path, body, param in (
            (CHAT, HI | {"stream": True}, "messages"),
            ("/v1/completions", {"prompt": "a", "stream": True}, "prompt"),
            ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ):
            call = Call(app, path, body)
            await turns()
            model.hear(protocol.Failed(model.last.id, "ContextLengthExceeded", "x", "", "messages"))
            await call.task
            assert (call.status, call.json["error"]["param"]) == (400, param)

    play(script)


def test_the_waiting_line_has_an_end_while_loading_too() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        calls = [Call(app) for _ in range(5)]
        await turns()
        assert [call.status for call in calls] == [0, 0, 0, 0, 429]
        for call in calls:
            call.leave()
        await asyncio.gather(*(call.task for call in calls))

    play(script, slots=1, queue=3)


def test_a_defect_of_ours_is_a_500_without_a_traceback() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        model.load()
        app.state.portable = None
        call = Call(app)
        with pytest.raises(AttributeError):  # for uvicorn to log
            await call.task
        assert (call.status, call.json["error"]["code"]) == (500, "internal_error")
        assert "names" not in call.body.decode() and call.headers["x-request-id"]

    play(script)


def test_the_body_is_capped_while_it_is_read() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        call = Call(app, body={"messages": "x" * 2000})
        await call.task
        assert (call.status, call.json["error"]["code"]) == (413, "request_too_large")

    play(script, max_body=1000)


def test_beyond_this_machine_any_host_name_is_fine() -> None:
    config = ServerConfig(host="0.0.0.0", api_keys=("k",))
    assert Guard(lambda *_: None, config)._hosts is None  # type: ignore[arg-type,return-value]


def test_a_body_of_many_lists_does_not_wake_the_garbage_collector() -> None:
    woken: list[str] = []
    body = b'{"prompt": [' + b"[1], " * 50_000 + b"[1]]}"
    gc.callbacks.append(lambda phase, _: woken.append(phase))
    try:
        parse(body, CompletionRequest)
        assert len(woken) < 10, "it would have walked the lists some hundred times"
    finally:
        gc.callbacks.pop()
    assert gc.isenabled()


class Poisonable(FakeProcess):
    """Its child dies of a request that is called poison, whatever else it has at that moment."""

    async def _run_child(self) -> None:
        self.sent = []
        self.load()
        while "poison" not in (got := self.asked):
            await asyncio.sleep(0)
            if self.restarts and got:  # the first child answers nobody in time
                self.hear(protocol.Result(got[-1], SCORES))
        self._lived = True
        self.ready.clear()

    @property
    def asked(self) -> list[str]:
        return [command.id for command in self.sent if isinstance(command, protocol.Query)]


def test_a_request_that_kills_every_process_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("portable.server.model.pause", lambda _deaths: 0.0)

    async def life() -> None:
        model = Poisonable()
        model.start()
        names = ("a", "poison", "b", "c")
        asked = [model.open(id, partial(protocol.Query, id, protocol.Describe())) for id in names]
        answers = await asyncio.gather(*(each.accepted for each in asked), return_exceptions=True)
        died = answers.pop(1)
        assert isinstance(died, EngineError) and "died" in died.message
        assert answers == [SCORES] * 3 and model.restarts == 2
        await model.stop()

    asyncio.run(asyncio.wait_for(life(), 10))


def test_logprobs_are_told_once_too() -> None:
    async def life() -> None:
        stream = Stream("a", lambda: protocol.Query("a", protocol.Describe()))
        stream.put(Delta("a", ""))
        assert not stream.told
        stream.put(Delta("a", "", logprobs=(TokenLogprob(b"a", -1.0),)))
        assert stream.told

    asyncio.run(life())
