"""The model's process dies, hangs or never starts; the server's own life ends: nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from serving import (
    CHAT,
    Server,
    asking,
    check_error,
    cli,
    events,
    model_file,
    running,
    text_of,
    until,
)

from portable.server.model import pause

COUNT = {"max_tokens": 1500, "logit_bias": {"2": -100, "0": -100}}


class Reader(threading.Thread):
    """A client that streams in the background and keeps what it got."""

    def __init__(self, server: Server, **fields: Any) -> None:
        super().__init__(daemon=True)
        self.body = asking("Count.", stream=True, **(COUNT | fields))
        self.url = server.url + CHAT
        self.lines: list[str] = []
        self.start()
        until(lambda: len(self.lines) > 3, 30)

    def run(self) -> None:
        # A server that is killed cuts the connection.
        with (
            contextlib.suppress(httpx2.TransportError),
            httpx2.stream("POST", self.url, json=self.body, timeout=60, trust_env=False) as got,
        ):
            for line in filter(None, got.iter_lines()):
                self.lines.append(line)

    def ended(self, seconds: float = 20) -> list[str]:
        self.join(seconds)
        assert not self.is_alive()
        return self.lines


def test_a_killed_process_fails_its_requests_and_is_started_again_every_time() -> None:
    with running() as server, ThreadPoolExecutor(1) as pool:
        before = server.chat("1, 2, 3,").json()["choices"]
        reader = Reader(server)
        whole = pool.submit(server.chat, "Count.", **COUNT)
        until(lambda: server.meta()["running"] == 2)
        time.sleep(1)  # with a token each: without one, it would be asked again
        server.child.kill()
        *_, error, done = reader.ended()
        assert json.loads(error[6:])["error"]["code"] == "backend_error"
        assert json.loads(error[6:])["object"] == "error" and done == "data: [DONE]"
        assert check_error(whole.result(), 500)["code"] == "backend_error"
        assert server.chat("1, 2, 3,").json()["choices"] == before, "it waited for the next process"
        assert server.meta()["restarts"] == 1

        server.child.kill()  # while nothing runs
        assert server.chat("1, 2, 3,").json()["choices"] == before
        assert server.meta()["restarts"] == 2
        for death in (3, 4):
            server.child.kill()
            assert server.chat("1, 2, 3,").json()["choices"] == before
            assert server.meta()["restarts"] == death
        assert "Traceback" not in server.log


def test_a_request_that_got_no_text_is_asked_again_once() -> None:
    with running() as server, ThreadPoolExecutor(2) as pool:
        long = "again " * 1200
        asked = [
            pool.submit(server.chat, long),
            pool.submit(server.chat, long, stream=True),
        ]
        until(lambda: server.meta()["running"] == 2)
        server.child.kill()
        whole, streamed = (each.result() for each in asked)
        assert whole.status_code == 200 and whole.json()["choices"]
        assert text_of(events(streamed)[:-1]) == whole.json()["choices"][0]["message"]["content"]
        assert server.meta()["restarts"] == 1

        asked = [pool.submit(server.chat, "once more " * 600)]
        for death in (2, 3):
            until(lambda: server.meta()["running"] == 1, 30)
            server.child.kill()
            until(lambda count=death: server.meta()["restarts"] == count)  # type: ignore[misc]
        assert check_error(asked[0].result(), 500)["code"] == "backend_error", "not for ever"


def test_often_dying_makes_the_pause_grow() -> None:
    now = time.monotonic()
    assert pause([]) == pause([now]) == pause([now - 90, now - 70, now]) == 0
    assert [pause([now] * n) for n in (2, 3, 4, 8)] == [1, 2, 4, 30]


def test_a_process_that_hangs_is_ended_and_started_again() -> None:
    with running(silent_seconds=3) as server:
        child = server.child
        reader = Reader(server)
        child.suspend()
        error, done = reader.ended()[-2:]
        assert json.loads(error[6:])["error"]["code"] == "backend_error" and done == "data: [DONE]"
        assert server.chat().status_code == 200
        assert not child.is_running()
        assert "does not answer" in server.log and server.meta()["restarts"] == 1


def test_a_pause_of_the_whole_machine_is_no_hang() -> None:
    with running(silent_seconds=2) as server:
        everyone = [psutil.Process(server.process.pid), server.child]
        for process in everyone:
            process.suspend()
        time.sleep(3)
        for process in everyone:
            process.resume()
        assert server.chat().status_code == 200
        assert server.meta()["restarts"] == 0


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_file_that_cannot_be_loaded_ends_the_server_in_one_line(
    tmp_path: Path, damage: str
) -> None:
    bad = tmp_path / "bad.gguf"
    shutil.copy(model_file(), bad)
    with bad.open("r+b") as file:
        file.truncate(5_000_000)
        if damage == "garbage":
            file.seek(8)
            file.write(os.urandom(4000))
    with running({"model": str(bad)}, ready=False) as server:
        assert server.ended() == 3
        lines = server.log.splitlines()
        assert sum(line.startswith("portable: ") for line in lines) == 1
        assert "bad.gguf" in lines[-1] and "Traceback" not in server.log


def test_killing_the_server_leaves_no_process() -> None:
    with running() as server:
        child = server.child
        Reader(server)
        server.process.kill()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5)


def test_sigterm_lets_an_answer_come_to_its_end() -> None:
    with running() as server:
        child, port = server.child, server.port
        reader = Reader(server, max_tokens=30)
        server.process.terminate()
        assert server.ended(15) == 0
        assert json.loads(reader.ended()[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert not child.is_running()
    with running(port=port):
        pass  # the port is free again


def test_sigterm_cuts_what_takes_too_long_with_an_error() -> None:
    with running(drain_seconds=1) as server:
        child = server.child
        reader = Reader(server)
        started = time.monotonic()
        server.process.terminate()
        assert server.ended(15) == 0
        assert time.monotonic() - started < 1 + 2 + 2  # drain, ending the child, a busy machine
        error, done = reader.ended()[-2:]
        assert "shutting down" in json.loads(error[6:])["message"] and done == "data: [DONE]"
        assert not child.is_running() and "Traceback" not in server.log


def test_a_second_signal_ends_it_at_once() -> None:
    with running(drain_seconds=60) as server:
        child = server.child
        Reader(server)
        server.process.terminate()
        until(lambda: "Shutting down" in server.log)
        server.process.terminate()
        assert server.ended(6) == 0
        until(lambda: not child.is_running())


def test_ctrl_c_reaches_the_server_only_which_lets_answers_end() -> None:
    with running() as server:
        reader = Reader(server, max_tokens=30)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.ended(15) == 130
        assert json.loads(reader.ended()[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert "Traceback" not in server.log


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_the_model_loads(number: int, code: int) -> None:
    with running(ready=False) as server:
        until(lambda: "Uvicorn running" in server.log)
        os.killpg(server.process.pid, number)
        assert server.ended(10) == code
        assert "Traceback" not in server.log


def test_requests_wait_for_the_model_to_load() -> None:
    with running(ready=False) as server:
        until(lambda: "Uvicorn running" in server.log)
        assert server.get("/health").status_code in (200, 503)
        assert events(server.chat(stream=True))[-1]["usage"]["completion_tokens"] == 4
        assert "is ready in" in server.log


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "streaming"])
def test_no_signal_to_the_child_alone_ends_it(busy: bool) -> None:
    """A service manager sends SIGTERM to all processes of a service."""
    with cli(str(model_file()), "--port", "0", "--threads", "1") as server:
        until(server.is_ready, 60)
        reader = Reader(server, max_tokens=30) if busy else None
        server.child.terminate()
        server.process.terminate()
        assert server.ended(15) == 0
        if reader:
            assert json.loads(reader.ended()[-2][6:])["choices"][0]["finish_reason"] == "length"
