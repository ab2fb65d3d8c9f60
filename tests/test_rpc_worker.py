"""`portable worker`: what it offers, whom it refuses, what it survives; and who asks it first."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from serving import ROOT, until
from workers import worker

from portable.engine.rpc import hello
from portable.engine.rpc.endpoint import endpoints, parts
from portable.errors import Busy, NetworkError, PortableError, UsageError
from portable.worker.config import WorkerConfig
from portable.worker.run import Worker

GB = 1_000_000_000


def test_workers_are_named_by_host_and_port() -> None:
    assert endpoints("a:1, 10.0.0.2:50052,a:1") == ("a:1", "10.0.0.2:50052")
    assert parts("10.0.0.2:50052") == ("10.0.0.2", 50052)
    for bad in ("a", "a:", ":1", "a:0", "a:70000", "a:x", "[::1]:5", "::1:5"):
        with pytest.raises(UsageError, match="--rpc"):
            endpoints(bad)


def test_beyond_this_machine_only_with_insecure() -> None:
    for host in ("0.0.0.0", "192.0.2.7"):
        with pytest.raises(UsageError, match="no key and no encryption") as refused:
            WorkerConfig(host=host)
        assert "ssh -L" in refused.value.hint and "--insecure" in refused.value.hint
        assert WorkerConfig(host=host, insecure=True).address == host
    assert WorkerConfig(host="localhost").address == "127.0.0.1"
    with pytest.raises(UsageError, match="IPv4"):
        WorkerConfig(host="::1")


def run_worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "portable.cli", "worker", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def test_what_is_wrong_is_one_line_and_an_exit_code() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        in_use = run_worker("--port", str(taken.getsockname()[1]))
    assert in_use.returncode == 98 and "is in use" in in_use.stderr
    refused = run_worker("--host", "0.0.0.0")
    assert refused.returncode == 2 and "--insecure" in refused.stderr
    unknown = run_worker("--port", "0", "--device", "CUDA7")
    assert unknown.returncode == 2 and "CUDA7" in unknown.stderr and "CPU" in unknown.stderr
    nothing = run_worker("--memory", "off")
    assert nothing.returncode == 2 and "lends nothing" in nothing.stderr
    for ended in (in_use, refused, unknown, nothing):
        assert len(ended.stderr.splitlines()) == 1


def test_a_device_that_is_named_twice_is_lent_once() -> None:
    with worker("--port", "0", "--device", "CPU", "--device", "CPU") as lent:
        assert len(hello.ask(lent.endpoint)) == 1 == lent.log.count("lends CPU")


def test_it_lends_no_more_than_it_says_and_names_its_client() -> None:
    with worker("--port", "0", "--memory", "1GB") as lent:
        assert lent.endpoint.startswith("127.0.0.1:") and "ssh -N -L" in lent.log
        (offer,) = hello.ask(lent.endpoint)
        assert 0.95 * GB < offer.free <= offer.total == GB
        with client(lent.endpoint) as sock:
            name = f"client 127.0.0.1:{sock.getsockname()[1]}"
            until(lambda: f"{name} connected" in lent.log)
            with pytest.raises(Busy, match="says nothing"):
                hello.ask(lent.endpoint, seconds=0.5)
        until(lambda: f"{name} left" in lent.log)
        assert hello.ask(lent.endpoint)


def test_more_than_it_lends_is_refused_to_every_client() -> None:
    """ggml's own would lend what is not there; on Linux the system says no."""
    with worker("--port", "0", "--memory", "100MB") as lent, client(lent.endpoint) as sock:
        send(sock, 14, bytes(24), 28)
        for size, given in ((90_000_000, True), (1_500_000_000, False), (1000, True)):
            reply = send(sock, 0, struct.pack("<IQ", 0, size), 16)
            assert bool(struct.unpack("<QQ", reply)[0]) == (given or sys.platform != "linux")


def send(sock: socket.socket, command: int, data: bytes, size: int) -> bytes:
    """A request of ggml's RPC, and its reply of so many bytes."""
    sock.sendall(struct.pack("<BQ", command, len(data)) + data)
    return sock.recv(8 + size, socket.MSG_WAITALL)[8:] if size else b""


def tensor(buffer: int, data: int) -> bytes:
    """One float in a buffer of the worker's, as ggml sends it."""
    ends = bytes(4 + 64 + 4 + 80 + 8 + 8), bytes(64 + 4)
    numbers = struct.pack("<QIQ4I4I", 1, 0, buffer, 1, 1, 1, 1, 4, 4, 4, 4)
    return numbers + ends[0] + struct.pack("<Q", data) + ends[1]


@contextmanager
def client(endpoint: str) -> Iterator[socket.socket]:
    with socket.create_connection(parts(endpoint), 5) as sock:
        sock.settimeout(None)  # or MSG_WAITALL would not wait
        yield sock


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_it_and_leave_nothing(number: int, code: int) -> None:
    with worker() as lent:
        child = lent.child
        os.killpg(lent.process.pid, number)
        assert lent.process.wait(10) == code
        assert not child.is_running() and "Traceback" not in lent.log


def test_a_signal_ends_it_between_two_lives_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Worker.run.__globals__, "_FIRST_PAUSE", 20.0)
    monkeypatch.setattr(Worker, "_live", lambda _: 1)
    made = Worker(WorkerConfig(), 1, lambda _: timer.start())
    timer = threading.Timer(0.3, made.stop, (signal.SIGTERM, None))
    began = time.monotonic()
    assert made.run() == 0 and time.monotonic() - began < 10
    timer.join()


def test_it_is_there_again_after_a_death_and_its_child_dies_with_it() -> None:
    with worker() as lent:
        lent.child.kill()
        until(lambda: "listening again" in lent.log)
        assert hello.ask(lent.endpoint, patience=5)
        child = lent.child
        lent.process.kill()
        until(lambda: not child.is_running())


def test_no_bytes_end_it() -> None:
    """Those that ggml's server aborts on, too."""
    draw = random.Random(7)
    with worker() as lent:
        for _ in range(40):
            hello.ask(lent.endpoint, patience=20)
            with client(lent.endpoint) as sock:
                send(sock, 14, bytes(24), 28)
                sock.sendall(bytes([draw.randrange(20)]) + draw.randbytes(draw.randrange(400)))
        hello.ask(lent.endpoint, patience=20)
        deaths = lent.log.count("died")
        with client(lent.endpoint) as sock:
            send(sock, 14, bytes(24), 28)
            (buffer, size) = struct.unpack("<QQ", send(sock, 0, struct.pack("<IQ", 0, 64), 16))
            assert size >= 64
            send(sock, 12, tensor(buffer, data=64), 0)  # beyond its buffer: ggml aborts
            with suppress(ConnectionResetError):
                assert not sock.recv(1)
        until(lambda: lent.log.count("died") > deaths, 20)
        assert hello.ask(lent.endpoint, patience=20)
        assert lent.process.poll() is None and "Traceback" not in lent.log


def test_a_foreign_or_old_endpoint_is_one_clear_error() -> None:
    def said(answer: bytes, seconds: float = 5.0) -> PortableError:
        with listener(answer) as endpoint, pytest.raises(PortableError) as raised:
            hello.ask(endpoint, seconds)
        return raised.value

    old = said((28).to_bytes(8, "little") + bytes([6, 1, 0, 0]) + bytes(24))
    assert isinstance(old, NetworkError) and "6.1.0" in old.message and "7.0.0" in old.message
    foreign = said(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(foreign, NetworkError) and "no worker" in foreign.message
    assert "no worker" in said(b"").message
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Busy):
            hello.ask(where, 0.3)
    with pytest.raises(NetworkError, match="no worker listens") as dead:
        hello.ask(where)
    assert dead.value.exit_code == 7 and "portable worker" in dead.value.hint


@contextmanager
def listener(answer: bytes) -> Iterator[str]:
    """Reads a request, answers that, and leaves."""

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            sock.recv(64)
            sock.sendall(answer)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()
