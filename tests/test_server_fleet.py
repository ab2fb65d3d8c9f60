"""Several models on one server: loaded when wanted, unloaded for room or when idle, never busy."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving import CHAT, Server, asking, check_error, cli, events, model_file, until
from test_server_unit import INFO

from portable.engine import protocol
from portable.engine.config import EngineConfig
from portable.engine.sequence import Delta, SamplingParams, Usage
from portable.errors import ContextLengthExceeded, EngineError, InvalidRequest, ModelNotFound
from portable.server import room
from portable.server.durations import seconds
from portable.server.fleet import Fleet
from portable.server.model import ModelProcess
from portable.server.names import Names
from portable.server.served import ModelConfig, Served

GIB = 1 << 30


class Machine:
    """Memory that fake processes take when they load and give back when they end."""

    def __init__(self, total: int) -> None:
        self.free = total
        self.log: list[str] = []


class Process(ModelProcess):
    """One that loads in three turns of the loop; a test plays its answers."""

    def __init__(self, name: str, size: int, machine: Machine) -> None:
        super().__init__(EngineConfig(Path(name)))
        self.name, self.size, self.machine = name, size, machine
        self.broken = False
        self.broken_from = 1 << 30  # tokens of context
        self.sent: list[str] = []

    async def _supervise(self) -> None:
        await asyncio.sleep(0)
        if self.broken or self.config.context >= self.broken_from:
            self._give_up(EngineError("it is broken"))
            return
        assert self.machine.free >= self.size, "two models in the room of one"
        self.machine.free -= self.size
        self.machine.log.append(f"+{self.name}")
        try:
            self.ready.set()
            self.send_waiting()
            await asyncio.Event().wait()
        finally:
            assert not self.is_busy
            self.ready.clear()
            self.machine.free += self.size
            self.machine.log.append(f"-{self.name}")

    def _send(self, command: protocol.Command) -> None:
        if isinstance(command, protocol.Generate):
            self.sent.append(command.id)

    def answer(self) -> None:
        for id in self.sent:
            self._deliver(Delta(id, "", "stop", Usage(1, 0, 1)))
        self.sent.clear()


Script = Callable[[Fleet, Machine], Awaitable[None]]


def play(script: Script, monkeypatch: pytest.MonkeyPatch, total: int, **sizes: int) -> list[str]:
    """Run a script on a fleet of fakes; returns who was loaded and unloaded, in order."""
    machine = Machine(total)
    monkeypatch.setattr(room, "need", lambda config: sizes[str(config.model)])
    monkeypatch.setattr("portable.server.fleet._TICK", 0.001)

    async def main() -> None:
        served = [
            Served(
                ModelConfig(engine=EngineConfig(Path(name)), names=(name,)),
                Process(name, size, machine),
            )
            for name, size in sizes.items()
        ]
        fleet = Fleet(served, free=lambda: machine.free)
        await asyncio.wait_for(script(fleet, machine), 20)
        await fleet.stop()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left

    asyncio.run(main(), debug=True)
    assert machine.free == total
    return machine.log


def ask(fleet: Fleet, name: str) -> Any:
    id = f"{name}{len(fleet.resolve(name).process._streams)}"
    return fleet.open(fleet.resolve(name), id, lambda: protocol.Generate(id, SamplingParams()))


async def ended(stream: Any) -> None:
    async for _ in stream:
        pass


def test_a_model_is_loaded_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fleet: Fleet, machine: Machine) -> None:
        streams = [ask(fleet, "b") for _ in range(5)]
        process: Any = fleet.resolve("b").process
        await process.ready.wait()
        await asyncio.sleep(0.01)
        assert process.sent == [stream.id for stream in streams]
        process.answer()

    assert play(script, monkeypatch, 8, a=1, b=1) == ["+b", "-b"]


def test_who_was_not_used_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fleet: Fleet, machine: Machine) -> None:
        for name in "abac":
            stream = ask(fleet, name)
            process: Any = fleet.resolve(name).process
            await process.ready.wait()
            process.answer()
            await ended(stream)

    assert play(script, monkeypatch, 7, a=3, b=3, c=4) == ["+a", "+b", "-b", "+c", "-a", "-c"]


def test_a_busy_model_answers_first_and_newcomers_wait_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(fleet: Fleet, machine: Machine) -> None:
        a: Any = fleet.resolve("a").process
        b: Any = fleet.resolve("b").process
        first = ask(fleet, "a")
        await a.ready.wait()
        second = ask(fleet, "b")
        await asyncio.sleep(0.02)
        late = ask(fleet, "a")
        await asyncio.sleep(0.02)
        assert a.sent == [first.id] and machine.log == ["+a"]
        a.answer()
        await ended(first)
        await b.ready.wait()
        assert b.sent == [second.id]
        b.answer()
        await a.ready.wait()
        assert a.sent == [late.id]
        a.answer()

    assert play(script, monkeypatch, 5, a=3, b=3) == ["+a", "-a", "+b", "-b", "+a", "-a"]


def test_what_failed_is_tried_again_for_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fleet: Fleet, machine: Machine) -> None:
        a: Any = fleet.resolve("a").process
        a.broken = True
        stream = ask(fleet, "a")
        with pytest.raises(EngineError, match="broken"):
            await stream.accepted
        assert fleet.resolve("a").state == "failed"
        with pytest.raises(EngineError, match="broken"):
            await fleet.load(fleet.resolve("a"))
        a.broken = False
        await fleet.load(fleet.resolve("a"))

    assert play(script, monkeypatch, 5, a=3, b=3) == ["+a", "-a"]


def test_a_context_that_does_not_fit_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the server, which follows `gone`, and not those who wait meanwhile."""

    async def script(fleet: Fleet, machine: Machine) -> None:
        a: Any = fleet.default.process
        await fleet.load(fleet.default)
        a.info = replace(INFO, context=100, trained_context=1000)
        gone = asyncio.create_task(a.gone.wait())
        busy = ask(fleet, "a")
        widening = asyncio.create_task(fleet.widen(fleet.default, 500))
        while not a.held:
            await asyncio.sleep(0)
        late = ask(fleet, "a")
        a.broken_from = 500
        a.answer()
        with pytest.raises(ContextLengthExceeded, match=r"500 .* 100 that there is memory for"):
            await widening
        assert a.config.context < 500
        while late.id not in a.sent:
            await asyncio.sleep(0.001)
        a.answer()
        await asyncio.gather(ended(busy), ended(late))
        assert not gone.done() and not late.accepted.done()
        gone.cancel()

    assert play(script, monkeypatch, 5, a=3) == ["+a", "-a", "+a", "-a"]


def test_an_idle_model_is_unloaded_and_a_busy_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable.server.fleet._REAP_SECONDS", 0.005)

    async def script(fleet: Fleet, machine: Machine) -> None:
        for served in fleet.models:
            served.keep_alive = 0.02
        fleet.start()
        a: Any = fleet.resolve("a").process
        stream = ask(fleet, "a")
        await a.ready.wait()
        await asyncio.sleep(0.1)
        assert machine.log == ["+a"]
        a.answer()
        await ended(stream)
        while a.ready.is_set():
            await asyncio.sleep(0.005)
        fleet.default.keep_alive = None
        again = ask(fleet, "a")
        await a.ready.wait()
        a.answer()
        await ended(again)
        await asyncio.sleep(0.1)
        assert a.ready.is_set()

    assert play(script, monkeypatch, 5, a=3) == ["+a", "-a", "+a", "-a"]


def test_who_is_used_while_it_waits_to_be_unloaded_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable.server.fleet._REAP_SECONDS", 0.005)

    async def script(fleet: Fleet, machine: Machine) -> None:
        await fleet.load(fleet.default)
        async with fleet._loading:  # another model is being loaded
            fleet.default.keep_alive = 0.01
            reaping = asyncio.create_task(fleet._reap())
            await asyncio.sleep(0.05)
            fleet.default.keep_alive = 60
        await asyncio.sleep(0.05)
        assert fleet.default.is_loaded
        reaping.cancel()

    assert play(script, monkeypatch, 5, a=3) == ["+a", "-a"]


def test_unloading_by_hand_waits_for_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fleet: Fleet, machine: Machine) -> None:
        a: Any = fleet.resolve("a").process
        ask(fleet, "a")
        await a.ready.wait()
        unloading = asyncio.create_task(fleet.unload(fleet.default))
        await asyncio.sleep(0.02)
        assert not unloading.done()
        a.answer()
        await unloading
        assert fleet.default.state == "unloaded"
        await fleet.unload(fleet.default)

    assert play(script, monkeypatch, 5, a=3) == ["+a", "-a"]


def test_names_find_their_model() -> None:
    names = Names([(("org/A-1", "first"), 1), (("B", "a-1"), 2)])
    asked = {"org/a-1": 1, "A-1": 1, "FIRST": 1, "b": 2, "": 1, None: 1}
    assert {name: names.resolve(name) for name in asked} == asked
    with pytest.raises(ModelNotFound, match="did you mean 'org/A-1'"):
        names.resolve("firts")
    with pytest.raises(ModelNotFound, match="serves 'org/A-1', 'B'"):
        names.resolve("x" * 500)
    assert Names([(("A",), 1)], any_model=True).resolve("zzz") == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("10m", 600), ("1h30m", 5400), ("90", 90), (0, 0), (2.5, 2.5), ("500ms", 0.5)],
)
def test_durations(text: Any, value: float) -> None:
    assert seconds(text, "x") == value


@pytest.mark.parametrize("text", [-1, "-1", "-5m", "forever"])
def test_below_zero_is_for_ever(text: Any) -> None:
    assert seconds(text, "x") is None


@pytest.mark.parametrize("text", ["", "m", "10 apples", "1m1", "１0m" * 9])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        seconds(text, "keep_alive")
    assert caught.value.param == "keep_alive"


def test_need_counts_weights_and_cache() -> None:
    size = model_file().stat().st_size
    short, long = (room.need(EngineConfig(model_file(), context=n)) for n in (1024, 3072))
    assert size + (200 << 20) < short < size + (400 << 20)
    # 30 layers of 3 heads with 64 values, keys and values, in f16; and the attention's mask.
    assert 1 <= (long - short) / (2048 * 2 * 30 * 3 * 64 * 2) < 1.05
    assert room.need(EngineConfig(Path("nowhere.gguf"))) == 0
    drafted = EngineConfig(model_file(), context=1024, draft=model_file(), adapter=model_file())
    size = model_file().stat().st_size
    alone = room.need(replace(drafted, draft=None, adapter=None))
    assert short < alone + 2 * size < room.need(drafted) < 2 * alone + size


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models, the second one a copy under another name."""
    other = tmp_path_factory.mktemp("models") / "Other-135M.gguf"
    shutil.copy(model_file(), other)
    arguments = (str(model_file()), "--model", str(other), "--port", "0", "--threads", "1")
    with cli(*arguments, "--context", "512", "--prompt-cache", "off") as server:
        until(server.is_ready, 60)
        yield server


def states(server: Server) -> dict[str, str]:
    return {m["id"]: m["meta"]["state"] for m in server.get("/v1/models").json()["data"]}


def children(server: Server) -> int:
    return len(psutil.Process(server.process.pid).children())


def test_the_second_model_sleeps_until_it_is_asked(both: Server) -> None:
    (first, _), (second, state) = states(both).items()
    assert second == "Other-135M" and state == "unloaded" and children(both) == 1
    both.get("/v1/models/Other-135M"), both.get("/health"), both.get("/api/ps")
    assert states(both)[second] == "unloaded"
    reply = both.chat(model="other-135m").json()
    assert reply["model"] == second
    assert set(states(both).values()) == {"ready"} and children(both) == 2
    same = both.chat().json()
    assert same["model"] == first
    assert same["choices"][0]["message"] == reply["choices"][0]["message"]
    assert "did you mean 'Other-135M'" in check_error(both.chat(model="othr-135M"), 404)["message"]


def test_a_request_says_how_long_its_model_is_kept(both: Server) -> None:
    both.chat(model="Other-135M", keep_alive="5m")
    listed = {m["name"]: m for m in both.get("/api/ps").json()["models"]}
    assert 290 < listed["Other-135M"]["seconds_until_unloaded"] <= 300
    both.chat(model="Other-135M", keep_alive=0)
    until(lambda: states(both)["Other-135M"] == "unloaded", 5)
    assert both.chat(model="Other-135M", ttl=60).status_code == 200
    check_error(both.chat(keep_alive="soon"), 400, "keep_alive")


def test_loading_and_unloading_by_hand(both: Server) -> None:
    named = {"model": "Other-135M"}
    assert both.post("/models/unload", named).json()["meta"]["state"] == "unloaded"
    assert both.post("/models/unload", named).status_code == 200
    assert both.post("/api/v1/models/load", named).json()["meta"]["state"] == "ready"
    assert both.post("/api/models/unload/Other-135M", b"").json()["meta"]["state"] == "unloaded"
    check_error(both.post("/models/load", {"model": "nobody"}), 404, "model")


def test_a_request_gets_the_context_that_it_asks_for(both: Server) -> None:
    long = "word " * 700
    error = check_error(both.chat(long), 400, "messages")
    assert error["code"] == "context_length_exceeded"
    assert both.chat(long, num_ctx=1024).status_code == 200
    assert both.meta()["n_ctx"] == 1024
    chunks = events(both.post(CHAT, asking(stream=True, options={"num_ctx": 300})))
    assert chunks and both.meta()["n_ctx"] == 1024
    error = check_error(both.chat(num_ctx=100_000), 400, "num_ctx")
    assert "8192" in error["message"]
