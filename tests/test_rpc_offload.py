"""Layers on other machines' workers: the same numbers, the truth about places, and losses.

Texts and logits are compared without flash attention and on one kind of processor: equal bit for
bit. Between different processors they agree as far as their kernels round alike.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import psutil
import pytest
from serving import ROOT, Server, cli, model_file, running, until
from test_server_child import Reader
from test_server_unit import INFO
from two_hosts import HERE, THERE, Unavailable, two_hosts
from workers import worker

from portable.engine import protocol
from portable.engine.buffers import HOST, Buffers
from portable.engine.config import EngineConfig
from portable.engine.llama import Llama
from portable.engine.offload.device import Device
from portable.engine.rpc.devices import blamed
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.errors import NetworkError, NotEnoughMemory
from portable.server.model import ModelProcess

ASK = "Name five fruits."
LAYERS = 31  # with the output
USING = {"gpu_layers": "all"}  # what fits this machine would stay on it


def computed(**config: Any) -> tuple[npt.NDArray[np.float32], Buffers]:
    """Logits of a prompt and of four greedy tokens behind it, and what lay where."""
    given = {"context": 512, "slots": 1, "threads": 1, "flash_attention": "off", **config}
    with closing(Llama(EngineConfig(model_file(), **given))) as llama:
        text = "The quick brown fox jumps over the lazy dog. Once upon a time"
        tokens = llama.tokenize(text, special=False, start=True)
        sequence, begin, rows = Sequence("", tokens, SamplingParams(), slot=0), 0, []
        for _ in range(5):
            part = Slice(sequence, begin, len(sequence.tokens) - begin)
            rows.append(llama.decode([part])[-1].copy())
            begin = len(sequence.tokens)
            sequence.tokens.append(int(rows[-1].argmax()))
        return np.array(rows), llama.buffers


def test_layers_give_the_same_numbers_wherever_they_lie() -> None:
    local, at_home = computed(gpu_layers=0)
    assert set(at_home.layers) == {HOST}
    with worker() as one, worker() as two:
        for endpoints in ((one.endpoint,), (one.endpoint, two.endpoint)):
            for layers in ("all", 1, 10):
                split = (1.0,) * len(endpoints)
                there, places = computed(rpc=endpoints, gpu_layers=layers, tensor_split=split)
                assert np.array_equal(there, local), (endpoints, layers)
                away = {name: n for name, n in places.layers.items() if name != HOST}
                count = LAYERS if layers == "all" else layers
                assert sum(away.values()) == count, places.layers
                assert sum(places.layers.values()) == LAYERS
                assert len(away) == min(count, len(endpoints))
                assert all(places.weights[name] for name in away), places.weights
        weights = psutil.Process(one.child.pid).memory_info().rss
        assert weights < 400 << 20, "what a client leaves is given back"


def test_what_no_machine_holds_alone_runs_on_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner's own choice, by the memory that each says it has."""
    local, _ = computed(gpu_layers=0)
    little = Device(HOST, "a laptop with little memory", 340 << 20, 1 << 30, "cpu", HOST)
    monkeypatch.setattr("portable.engine.weights.host", lambda: little)
    lend = ("--port", "0", "--memory", "215MB")
    with pytest.raises(NotEnoughMemory):
        computed()
    with worker(*lend) as one, worker(*lend) as two:
        before = psutil.Process(one.child.pid).memory_info().rss
        there, places = computed(rpc=(one.endpoint, two.endpoint))
        assert np.array_equal(there, local)
        assert len(places.layers) == 3 and min(places.layers.values()) > 1, places.layers
        for name in set(places.layers) - {HOST}:
            used = (places.weights, places.cache, places.compute)
            assert 0 < sum(kind[name] for kind in used) < 215_000_000
        assert psutil.Process(one.child.pid).memory_info().rss - before < 215_000_000


def test_weights_cross_the_network_once_with_a_cache(tmp_path: Any) -> None:
    with worker("--port", "0", "--cache", env={"PORTABLE_HOME": str(tmp_path)}) as lent:
        once, _ = computed(rpc=(lent.endpoint,), gpu_layers="all")
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "tensors").iterdir()}
        again, _ = computed(rpc=(lent.endpoint,), gpu_layers="all")
        assert np.array_equal(once, again)
        # Only tensors of more than 10 MiB: of this model, that is the output.
        assert len(kept) == 1
        assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "tensors").iterdir()}


def answer(server: Server) -> str:
    reply = server.chat(ASK, max_tokens=30)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


def test_a_worker_that_dies_is_named_and_done_without_until_it_is_back() -> None:
    with worker() as lent, running(USING | {"rpc": [lent.endpoint]}) as server:
        before = answer(server)
        assert "layers -> RPC0" in server.meta()["placement"]
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="EMPTY", max_retries=0)
        with client, pytest.raises(openai.APIError, match=lent.endpoint) as failed:
            stream = client.chat.completions.create(
                model=client.models.list().data[0].id,
                messages=[{"role": "user", "content": "Count."}],
                max_tokens=1500,
                logit_bias={"2": -100, "0": -100},
                stream=True,
            )
            for at, _ in enumerate(stream):
                if at == 5:
                    lent.kill()
        assert failed.value.code == "backend_error" and "went away" in failed.value.message
        assert answer(server) == before, "a clean retry, on what is left"
        assert "without a worker: no worker listens at " + lent.endpoint in server.log
        assert "CPU" in server.meta()["placement"]
        assert server.process.poll() is None and "Traceback" not in server.log
        with worker("--port", lent.endpoint.rpartition(":")[2]) as back:
            server.child.kill()
            assert answer(server) == before
            assert "layers -> RPC0" in server.meta()["placement"], "it is used again"
            back.kill()  # while nobody asks: the next request finds out
            assert answer(server) == before, "without a token yet, it was asked again by itself"
            assert server.meta()["restarts"] == 3


def test_a_worker_that_hangs_is_lost_after_a_while() -> None:
    with worker() as lent, running(USING | {"rpc": [lent.endpoint], "rpc_seconds": 2}) as server:
        before = answer(server)
        reader = Reader(server)
        lent.child.suspend()
        error = reader.ended()[-2]
        assert "backend_error" in error and "did not answer for 2 seconds" in error
        assert lent.endpoint in error
        assert answer(server) == before
        assert "says nothing" in server.log
        lent.child.resume()


def test_one_of_two_workers_is_enough() -> None:
    with (
        worker() as one,
        worker() as two,
        running(USING | {"rpc": [one.endpoint, two.endpoint], "tensor_split": [1, 1]}) as server,
    ):
        before = answer(server)
        assert all(f"layers -> RPC{n}" in server.meta()["placement"] for n in (0, 1))
        reader = Reader(server)
        one.kill()
        assert one.endpoint in reader.ended()[-2]
        assert two.endpoint not in reader.ended()[-2], "it is not to blame"
        assert answer(server) == before
        again = server.log.rpartition("the model runs again")[2]
        assert "31/31 layers -> RPC0 " in again
        assert f"; without a worker: no worker listens at {one.endpoint}" in again


def test_too_little_without_a_worker_blames_the_worker() -> None:
    missing = [NetworkError("no worker listens at a:1", hint="start it")]
    why = "no worker listens at a:1; without it the model needs 9 GiB"
    with pytest.raises(NetworkError, match=why), blamed(missing):
        raise NotEnoughMemory("the model needs 9 GiB")
    with pytest.raises(NotEnoughMemory), blamed([]):
        raise NotEnoughMemory("the model needs 9 GiB")


class Lives(ModelProcess):
    """A process that lives, fails to start for want of a worker, and lives again."""

    def __init__(self) -> None:
        super().__init__(EngineConfig(model_file()))
        self.started = 0
        self.back = asyncio.Event()

    async def _run_child(self) -> None:
        self.started += 1
        if self.started > 1 and not self.back.is_set():
            self.failure = NetworkError("no worker listens at a:1")
            return
        self.info = INFO
        self._lived = True
        self.ready.set()
        if self.started > 1:
            await asyncio.Event().wait()
        self.ready.clear()


def test_a_server_waits_for_a_worker_that_it_cannot_do_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("portable.server.model.pause", lambda _deaths: 0.01)

    async def life() -> None:
        model = Lives()
        model.start()
        await until_started(model, 2)
        asked = model.open("a", lambda: protocol.Query("a", protocol.Describe()))
        with pytest.raises(NetworkError, match="a:1"):
            await asyncio.wait_for(asked.accepted, 5)
        await until_started(model, 12)  # more often than a model may fail to load
        assert not model.gone.is_set()
        model.back.set()
        await asyncio.wait_for(model.ready.wait(), 5)
        await model.stop()

    asyncio.run(life())


async def until_started(model: Lives, count: int) -> None:
    async with asyncio.timeout(5):
        while model.started < count:
            await asyncio.sleep(0.01)


# --- the command line ---

PORTABLE = [sys.executable, "-P", "-m", "portable.cli"]


def portable(*arguments: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*(prefix or []), *PORTABLE, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def chat(*arguments: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """One greedy answer on one thread."""
    exact = ["--flash-attention", "off", "--threads", "1", "--temperature", "0"]
    return portable("chat", str(model_file()), ASK, *exact, *arguments, prefix=prefix)


def test_what_is_wrong_with_a_worker_is_said_before_anything_is_loaded() -> None:
    with worker() as lent, running(USING | {"rpc": [lent.endpoint]}):
        for command, endpoint, code, words in (
            ("chat", lent.endpoint, 6, "another client's"),
            ("chat", "nonsense", 2, "no HOST:PORT"),
            ("serve", "127.0.0.1:1", 7, "no worker listens"),
            ("bench", "127.0.0.1:1", 7, "no worker listens"),
        ):
            ended = portable(command, str(model_file()), "--rpc", endpoint)
            assert ended.returncode == code, ended.stderr
            assert words in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert chat("--rpc", "127.0.0.1:1", "--gpu-layers", "0").returncode == 0, "it is not asked"


def test_a_worker_that_is_named_twice_is_a_mistake() -> None:
    with worker() as lent:
        once = lent.endpoint
        again = "localhost:" + once.rpartition(":")[2]
        ended = portable("chat", str(model_file()), "--rpc", f"{once},{again}")
    assert ended.returncode == 2 and f"{again} is {once} by another name" in ended.stderr


def test_chat_says_which_worker_is_lost_and_ends() -> None:
    with worker() as lent:
        local = chat("--no-stats")
        away = ["--rpc", lent.endpoint, "--gpu-layers", "all"]
        assert chat(*away, "--no-stats").stdout == local.stdout != ""
        flags = ["--threads", "1", "--max-tokens", "4000", "--prompt-cache", "off", *away]
        with subprocess.Popen(
            [*PORTABLE, "chat", str(model_file()), "Tell me a long story.", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as talking:
            assert talking.stdout and talking.stderr
            assert talking.stdout.read(20)
            lent.kill()
            words = talking.stderr.read()
            assert talking.wait(20) == 70
        last = words.splitlines()[-1]
        assert last.startswith(f"portable: the worker {lent.endpoint} went away")
        assert "Traceback" not in words and "GGML" not in words


def test_serve_takes_workers_from_its_flags_and_the_environment() -> None:
    with worker() as lent:
        flags = [str(model_file()), "--port", "0", "--threads", "1", "--gpu-layers", "all"]
        with cli(*flags, env={"PORTABLE_RPC": lent.endpoint}) as server:
            until(server.is_ready, 60)
            assert f"worker {lent.endpoint}: " in server.log
            assert "layers -> RPC0" in server.meta()["placement"]


# --- two hosts ---


def test_two_hosts_share_a_model_over_a_cable() -> None:
    """Network namespaces: each has its own loopback, and nothing but a veth pair between them."""
    local = chat("--no-stats")
    try:
        with two_hosts() as hosts:
            hosts.slow_down("1gbit", "0.5ms")
            options = ["--host", THERE, "--port", "50052", "--insecure"]
            with worker(*options, prefix=hosts.there) as lent:
                assert "WARNING: no key" in lent.log
                flags = ["--rpc", lent.endpoint, "--gpu-layers", "12", "--no-stats"]
                remote = chat(*flags, prefix=hosts.here)
                assert remote.returncode == 0, remote.stderr
                assert remote.stdout == local.stdout
                assert f"12/{LAYERS} layers -> RPC0" in remote.stderr
                assert f"client {HERE}:" in lent.log
    except Unavailable as why:
        pytest.skip(f"no network namespaces here: {why}")
