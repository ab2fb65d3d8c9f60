"""Clients that leave, in every state of their request, and many at once."""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving import CHAT, Server, asking, events, running, server, text_of, until

__all__ = ["server"]
LONG = {"max_tokens": 1500, "logit_bias": {"2": -100, "0": -100}}  # no end token: it goes on and on


def start(server: Server, **fields: Any) -> socket.socket:
    """Send a request and do not wait for its answer."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    body = json.dumps(asking(**fields)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


def leave(sock: socket.socket) -> None:
    """Close as a killed client does: with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def still_right(server: Server) -> None:
    assert server.chat("1, 2, 3,", max_tokens=2).json()["usage"]["completion_tokens"] == 2
    assert server.meta()["restarts"] == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("state", ["tokenizing", "prefill", "decode"])
def test_a_client_that_leaves_takes_its_request_along(
    server: Server, stream: bool, state: str
) -> None:
    text = "Count." if state == "decode" else f"{stream} {state} word " * 450
    sock = start(server, text=text, stream=stream, **LONG)
    if state != "tokenizing":
        until(lambda: server.meta()["running"] == 1)
    if state == "decode" and stream:
        while b"content" not in sock.recv(4096):
            pass
    leave(sock)
    server.wait_idle()
    still_right(server)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_at_once_leaves_nothing_behind(server: Server, stream: bool) -> None:
    for _ in range(20):
        leave(start(server, text="Count.", stream=stream, **LONG))
    server.wait_idle()
    still_right(server)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_the_queue_is_never_answered(stream: bool) -> None:
    with running({"slots": 1}) as made:
        first = start(made, text="Count.", **LONG)
        until(lambda: made.meta()["running"] == 1)
        queued = [start(made, text="Count.", stream=stream, **LONG) for _ in range(3)]
        until(lambda: made.meta()["running"] == 4)
        for sock in queued:
            leave(sock)
        until(lambda: made.meta()["running"] == 1, 3)
        leave(first)
        made.wait_idle()
        still_right(made)


def test_more_than_the_queue_holds_is_refused_with_when_to_try_again() -> None:
    with running({"slots": 1, "queue": 2}) as made:
        held = [start(made, text="Count.", **LONG) for _ in range(3)]
        until(lambda: made.meta()["running"] == 3)
        refused = made.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        for sock in held:
            leave(sock)
        made.wait_idle()
        still_right(made)


def test_a_storm_of_clients_that_leave_anywhere(server: Server) -> None:
    dice = random.Random(7)

    def client(at: int) -> None:
        sock = start(server, text=f"Count {at}.", stream=bool(at % 2), **LONG)
        time.sleep(dice.random() * 0.3)
        leave(sock)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(120)))
    server.wait_idle()
    still_right(server)
    assert "Traceback" not in server.log


def test_half_a_body_and_gone_is_no_error_of_ours(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        sock.sendall(b'Content-Length: 100\r\n\r\n{"mess')
    still_right(server)
    assert "Traceback" not in server.log


def test_more_requests_than_slots_are_all_answered(server: Server) -> None:
    def client(at: int) -> int:
        response = server.chat(f"Say {at}.", stream=bool(at % 2), max_tokens=4)
        assert response.status_code == 200
        if at % 2:
            assert text_of(events(response))
        else:
            assert response.json()["choices"][0]["message"]["content"]
        return at

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(client, range(32))) == list(range(32))
    server.wait_idle()


def test_a_reader_that_does_not_read_holds_up_nobody(server: Server) -> None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    body = json.dumps(asking("Count.", stream=True, **LONG)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    time.sleep(0.5)
    still_right(server)
    leave(sock)
    server.wait_idle()


def test_one_bad_prompt_of_several_stops_the_others(server: Server) -> None:
    asked = {"prompt": ["Count:", "word " * 3000], "temperature": 0, **LONG}
    response = server.post("/v1/completions", asked)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    server.wait_idle()
    still_right(server)


def test_several_prompts_are_all_cancelled(server: Server) -> None:
    body = json.dumps({"prompt": ["Count:", "One, two,", "A, B,"], **LONG}).encode()
    sock = socket.create_connection(("127.0.0.1", server.port))
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    until(lambda: server.meta()["running"] == 3)
    leave(sock)
    server.wait_idle()
    still_right(server)
    assert "Traceback" not in server.log
