"""A server on the device: sixteen clients at once, and memory that comes back when it unloads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import psutil
import pytest
from serving import CHAT, ROOT, Server, asking, running, until
from target import WANTED, model
from workers import worker

from portable.engine import nvidia

pytestmark = pytest.mark.gpu

_CLIENTS = 16
_SECONDS = 280  # Mesa's Vulkan on a CPU takes its time
_BODY = asking("Name the capital of France.", max_tokens=8)


class Served(NamedTuple):
    """A server, and the bytes that are taken of its device by whomever."""

    server: Server
    held: Callable[[], int]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    engine = {"model": str(model()), "gpu_layers": "all", "threads": 1, "slots": _CLIENTS}
    with ExitStack() as stack:
        if WANTED == "rpc":
            lent = stack.enter_context(worker("--port", "0", "--memory", "2GB"))
            engine["rpc"] = [lent.endpoint]
            process = lent.child
        server = stack.enter_context(running(engine))
        held = _of_nvidia
        if WANTED == "rpc":
            held = lambda: process.memory_info().rss  # noqa: E731
        elif WANTED != "cuda":  # its driver tells no other program
            held = lambda: psutil.Process(server.process.pid).children()[0].memory_info().rss  # noqa: E731
        yield Served(server, held)


def _of_nvidia() -> int:
    (gpu, *_) = nvidia.ask().gpus
    return gpu.total - gpu.free


def test_every_client_gets_its_answer(served: Served) -> None:
    with ThreadPoolExecutor(_CLIENTS) as pool:
        ask = lambda _: served.server.post(CHAT, _BODY, timeout=_SECONDS)  # noqa: E731
        answers = list(pool.map(ask, range(_CLIENTS)))
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert all("Paris" in text for text in texts), texts
    served.server.wait_idle()


@pytest.mark.skipif(WANTED not in ("cuda", "rpc"), reason="no driver tells what is taken")
def test_an_unloaded_model_gives_its_memory_back(served: Served) -> None:
    weights = model().stat().st_size
    loaded = served.held()
    assert served.server.post("/models/unload", {}).status_code == 200
    until(lambda: loaded - served.held() > 0.9 * weights, 10)
    unloaded = served.held()
    assert served.server.post("/models/load", {}).status_code == 200
    until(lambda: served.held() - unloaded > 0.9 * weights, 10)


@pytest.mark.skipif(WANTED != "cuda", reason="CUDA's own variable")
@pytest.mark.parametrize(("visible", "where"), [("", "CPU"), ("0", "CUDA0")])
def test_cuda_visible_devices_is_obeyed_and_named(visible: str, where: str) -> None:
    command = [sys.executable, "-P", "-m", "portable.cli", "chat", str(model()), "Hi"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [*command, "--max-tokens", "1"], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"layers on {where}" in done.stderr
    assert visible or "CUDA_VISIBLE_DEVICES" in done.stderr
