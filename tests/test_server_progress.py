"""What a client is told while it waits: loading, its place in the queue, how far its prompt is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from serving import CHAT, Server, asking, events, server, text_of
from starlette.applications import Starlette
from test_server_unit import CHAT as PATH
from test_server_unit import HI, Call, FakeProcess, play, turns

from portable.engine import protocol
from portable.engine.sequence import Delta, Progress, Usage

__all__ = ["server"]
STREAM = HI | {"stream": True}
COMPLETIONS = "/v1/completions"


def states(call: Call) -> list[Any]:
    return [chunk["portable"] for chunk in call.chunks if "portable" in chunk]


def test_a_client_sees_loading_queue_and_reading() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        first, second = Call(app, body=STREAM), Call(app, body=STREAM)
        await turns()
        model.hear(protocol.Loading(0.4))
        while not states(first):
            await turns()
        assert states(first)[-1] == {"state": "loading", "progress": 0.4}
        model.load()
        ids = [command.id for command in model.sent]
        model.hear(*(protocol.Accepted(id, 100) for id in ids))
        model.hear(protocol.Deltas([Delta(ids[0], "", progress=Progress(100, 20, 60, 2.0))]))
        while states(first)[-1]["state"] != "reading" or states(second)[-1]["state"] != "queued":
            await turns()
        read = {"state": "reading", "processed": 60, "total": 100, "eta_s": 2.0}
        assert states(first)[-1] == read
        assert states(second)[-1]["position"] == 0 and states(second)[-1]["eta_s"] > 0
        for id in ids:
            ends = Delta(id, "", "stop", Usage(100, 20, 1))
            model.hear(protocol.Deltas([Delta(id, "hi"), ends]))
        await first.task, await second.task
        assert all(c["choices"][0]["delta"].get("content") is not None for c in first.chunks)

    play(script, keep_alive_seconds=0.02, status_after_seconds=0.01)


def test_who_asks_is_told_each_step() -> None:
    async def script(app: Starlette, model: FakeProcess) -> None:
        model.load()
        asks, silent = Call(app, PATH, STREAM | {"return_progress": True}), Call(app, body=STREAM)
        await turns()
        for command in list(model.sent):
            read = [Progress(90, 30, done, done / 30) for done in (60, 90)]
            model.hear(protocol.Accepted(command.id, 90))
            model.hear(protocol.Deltas([Delta(command.id, "", progress=one) for one in read]))
            model.hear(protocol.Deltas([Delta(command.id, "a", "stop", Usage(90, 30, 1))]))
        await asks.task, await silent.task
        told = [c["prompt_progress"] for c in asks.chunks if "prompt_progress" in c]
        assert told[0] == {"total": 90, "cache": 30, "processed": 60, "time_ms": 2000}
        assert not states(silent)

    play(script)


@pytest.mark.parametrize("n", [1, 3])
def test_what_is_not_told_is_silence(n: int) -> None:
    """Neither a prompt that is read nor a call that is left out keeps the client's line alive."""
    calls = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "now"}}]
    body = STREAM | {"n": n, "tools": tools, "parallel_tool_calls": False}

    async def script(app: Starlette, model: FakeProcess) -> None:
        model.load()
        call = Call(app, body=body)
        await turns()
        ids = [command.id for command in model.sent]
        model.hear(*(protocol.Accepted(id, 100) for id in ids))
        for text in ("", calls):
            before = len(states(call))
            for step in range(30):
                delta = Delta(ids[0], text, progress=None if text else Progress(100, 0, step, 1.0))
                model.hear(protocol.Deltas([delta]))
                await asyncio.sleep(0.01)
            assert len(states(call)) > before + 1
        for id in ids:
            model.hear(protocol.Deltas([Delta(id, "", "stop", Usage(100, 0, 1))]))
        await call.task

    play(script, keep_alive_seconds=0.04)


def test_a_long_prompt_on_a_real_model(server: Server) -> None:
    long = "The sea is wide and the ships are small. " * 120
    chunks = events(server.post(CHAT, asking(long, stream=True, return_progress=True)))
    told = [c["prompt_progress"] for c in chunks if "prompt_progress" in c]
    done = [one["processed"] for one in told]
    total = chunks[-1]["usage"]["prompt_tokens"]
    assert done and done == sorted(done) and all(one["total"] == total for one in told)
    plain = events(server.post(CHAT, asking(long, stream=True)))
    assert not any("prompt_progress" in c for c in plain) and text_of(plain) == text_of(chunks)
    body = {"prompt": long + "!", "max_tokens": 2, "stream": True, "return_progress": True}
    assert any("prompt_progress" in c for c in events(server.post(COMPLETIONS, body)))
