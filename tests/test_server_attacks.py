"""What hit other servers, tried on a real one; and afterwards it is as it was before."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from serving import CHAT, INTERNAL, Server, asking, check_error, running, until

from portable.server.app import routes

CANARY = {"text": "1, 2, 3, 4,", "max_tokens": 12}
# Each event carries the model's name: with this one an answer is soon too long to be kept.
NAME = "long-" * 600
LIMITS: dict[str, Any] = {
    "names": (NAME, "smol"),
    "max_body": 1 << 20,
    "head_seconds": 1,
    "body_seconds": 1,
    "stall_seconds": 1,
    "idle_seconds": 2,
    "max_connections": 120,
}
SECRET = "Pomegranate-7291"


def canary(server: Server) -> str:
    text: str = server.chat(**CANARY).json()["choices"][0]["message"]["content"]
    return text


def opened(server: Server) -> int:
    return psutil.Process(server.process.pid).num_fds()


def memory(server: Server) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """At its end it must hold nothing more than at its beginning, and say the same."""
    with running(**LIMITS) as made:
        said = canary(made)
        made.client.close()
        made.client = type(made.client)(timeout=60, trust_env=False)
        files, size = opened(made), memory(made)
        yield made
        made.wait_idle(20)
        assert canary(made) == said
        assert made.meta()["restarts"] == 0 and made.process.poll() is None
        assert "Traceback" not in made.log
        until(lambda: opened(made) <= files + 3, 10)  # our own connection, and one that is closing
        assert memory(made) - size < 64 << 20


def connect(server: Server, *said: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    for part in said:
        sock.sendall(part)
    return sock


def raw(server: Server, *said: bytes) -> bytes:
    """All that comes until the server closes, which it does soon whatever was said."""
    with connect(server) as sock:
        with contextlib.suppress(ConnectionError):  # refused while it was still being sent
            for part in said:
                sock.sendall(part)
        return rest(sock)


def rest(sock: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            answer += part
    return answer


def request(method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), fields, body


def check_refused(answer: bytes, *statuses: int) -> dict[str, Any]:
    """OpenAI's error shape, and nothing of this machine in it."""
    status, fields, body = parts(answer)
    assert status in statuses, answer[:500]
    assert fields["content-type"] == "application/json"
    error: dict[str, Any] = json.JSONDecoder().raw_decode(body.decode())[0]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not INTERNAL.search(error["message"]), error
    return error


def test_a_hundred_slow_clients_hold_up_nobody_and_are_ended(server: Server) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    kinds = (b"", b"GET /v1/mod", head + b"X: y\r\n", head + b"Content-Length: 999\r\n\r\n{")
    with contextlib.ExitStack() as held:
        slow = [held.enter_context(connect(server, kinds[at % len(kinds)])) for at in range(100)]
        began = time.monotonic()
        assert server.chat(max_tokens=1).status_code == 200
        answers = [rest(sock) for sock in slow]
    assert set(answers[:: len(kinds)]) == {b""}
    for answer in (answer for at, answer in enumerate(answers) if at % len(kinds)):
        check_refused(answer, 408)
    assert time.monotonic() - began < 20  # each within its second, on a busy machine


def test_a_reader_that_stops_is_cut_and_its_cells_are_free(server: Server) -> None:
    body = json.dumps(
        {
            "prompt": ["Count:"] * 4,
            "max_tokens": 1500,
            "stream": True,
            "logit_bias": {"0": -100, "2": -100},
        }
    ).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(request("POST", "/v1/completions", body=body))
        until(lambda: server.meta()["running"] == 4)
        until(lambda: server.meta()["running"] == 0, 20)
        sock.settimeout(5)
        seen = rest(sock)
        assert seen and b"[DONE]" not in seen, "it was cut before the end of its answer"


@pytest.mark.parametrize("extra", [50, 300])
def test_too_many_connections_are_refused_and_then_it_goes_on(server: Server, extra: int) -> None:
    held = []
    for _ in range(LIMITS["max_connections"] + extra):
        with contextlib.suppress(OSError):
            held.append(connect(server))
    answer = raw(server, request("GET", "/v1/models"))
    if answer:  # else there were so many that nobody was told
        error = check_refused(answer, 503)
        assert error["code"] == "too_many_connections"
        assert parts(answer)[1]["retry-after"] == "2"
    for sock in held:
        sock.close()
    until(lambda: raw(server, request("GET", "/v1/models")).startswith(b"HTTP/1.1 200"), 5)


def test_what_one_server_reads_as_one_request_is_no_second_one_here(server: Server) -> None:
    inner = request("GET", "/v1/models")
    chunked = b"0\r\n\r\n" + inner
    for fields in (
        ("Transfer-Encoding: chunked", f"Content-Length: {len(chunked)}"),
        (f"Content-Length: {len(chunked)}", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding : chunked",),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Content-Length: 0x10",),
    ):
        head = "\r\n".join(["POST /v1/models HTTP/1.1", "Host: localhost", *fields, "", ""])
        answer = raw(server, head.encode() + chunked)
        assert answer.count(b"HTTP/1.1 ") == 1, answer
        check_refused(answer, 400, 501)


def test_a_line_of_requests_is_answered_in_turn(server: Server) -> None:
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200
    answer = raw(server, asked + request("GET", "/health"))
    assert answer.count(b"HTTP/1.1 200 ") == 201


@pytest.mark.parametrize(
    ("said", "statuses"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, (400,)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 403)),
        (b"SSH-2.0-OpenSSH_9.6\r\n", (400, 408)),
        (b"\0" * 1000, (400,)),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (10 << 20), (431,)),
        (b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n", (431,)),
        (request("GET", "/", *(f"X-{at}: y" for at in range(5000))), (431,)),
        (request("GET", "/v1/models").replace(b"localhost", b"evil.example"), (403,)),
        (
            request("GET", "/v1/models").replace(b"localhost", b"localhost, evil.example"),
            (400, 403),
        ),
        (request("GET", "/v1/models").replace(b"Host", b"X-Host"), (400,)),
        (request("GET", "/v1/models", "Origin: https://evil.example"), (403,)),
        (request("POST", CHAT, "Origin: null", body=b"{}"), (403,)),
        (request("GET", "http://evil.example/v1/models"), (404,)),
        (request("GET", "//evil.example/v1/models"), (404,)),
        (request("CONNECT", "evil.example:443"), (404, 405)),
        (request("OPTIONS", "*"), (404, 405)),
        (request("TRACE", "/v1/models"), (405,)),
        (request("GET", "/v1/models/..%2f..%2f..%2fetc%2fpasswd"), (404,)),
        (request("GET", "/v1/models/../../../etc/passwd"), (404,)),
        (request("GET", "/v1/models/%2e%2e/%2e%2e/etc/passwd"), (404,)),
        (request("GET", "/v1/models/..%5c..%5cwindows%5cwin.ini"), (404,)),
        (request("GET", "/v1/models/file:%2f%2f%2fetc%2fpasswd"), (404,)),
        (request("GET", "/v1/models/%00"), (404,)),
        (request("GET", "/v1/models/" + "a" * 300), (404,)),
        (request("GET", "/v1//models"), (404,)),
        (request("GET", "/health/"), (404,)),
        (request("GET", "/v1/models%00.json"), (404,)),
        (request("GET", "/%ff%fe"), (404,)),
        (request("POST", "/v1/models", "X-HTTP-Method-Override: GET", body=b"{}"), (405,)),
        (request("POST", CHAT, "Content-Encoding: gzip", body=gzip.compress(b"x" * 10**7)), (415,)),
        (request("POST", CHAT, body=gzip.compress(b"x" * 10**7)), (400,)),
        (
            request("POST", CHAT, "Content-Type: multipart/form-data; boundary=b", body=b"--b"),
            (415,),
        ),
        (request("POST", CHAT, f"Content-Length: {200 << 20}") + b"x" * 1000, (413,)),
        (request("GET", "/v1/models", "Connection: Upgrade", "Upgrade: websocket"), (200,)),
        (request("GET", "/v1/models", "Range: bytes=" + "0-," * 9000), (200,)),
    ],
    ids=lambda value: str(value)[2:40] if isinstance(value, bytes) else "",
)
def test_what_is_odd_on_the_wire(server: Server, said: bytes, statuses: tuple[int, ...]) -> None:
    answer = raw(server, said)
    if statuses == (200,):
        assert answer.startswith(b"HTTP/1.1 200 ")
    else:
        check_refused(answer, *statuses)
    assert b"root:" not in answer and server.is_ready()


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, {"POST"}),
        ("HEAD", CHAT, {"POST"}),
        ("OPTIONS", CHAT, {"POST"}),
        ("DELETE", "/v1/models", {"GET", "HEAD"}),
        ("PUT", "/health", {"GET", "HEAD"}),
        ("BREW", "/v1/completions", {"POST"}),
    ],
)
def test_a_method_that_a_route_does_not_have(
    server: Server, method: str, path: str, allow: set[str]
) -> None:
    answer = server.client.request(method, server.url + path)
    assert set(answer.headers["allow"].split(", ")) == allow
    if method != "HEAD":
        assert check_error(answer, 405)["code"] == "method_not_allowed"


def test_an_endless_body_is_refused_and_not_kept(server: Server) -> None:
    before = memory(server)
    with connect(server) as sock:
        head = request("POST", CHAT, "Transfer-Encoding: chunked")
        sock.sendall(head.replace(b"Connection: close\r\n", b""))
        chunk = b"10000\r\n" + b"[" * 65536 + b"\r\n"
        for _ in range(1000):  # 64 MiB, where one is read
            sock.sendall(chunk)
        sock.sendall(b"0\r\n\r\n")
        assert check_refused(sock.recv(65536), 413)["code"] == "request_too_large"
    assert memory(server) - before < 16 << 20


SCHEMAS: list[Any] = [
    {"type": "string", "maxLength": 20_000},
    {"type": "array", "maxItems": 100_000},
    {"const": "\0"},
    {"enum": [f"value {at}" for at in range(20_000)]},
    {"type": "string", "pattern": "^(a+)+$"},
    {"type": "string", "pattern": "(a{1000}){1000}"},
    {"type": "string", "pattern": "("},
    {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(2000)}},
    {"$ref": "#"},
    {"$ref": "#/$defs/nothing"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": ["x", 7]},
    {"minimum": 10, "maximum": 1, "type": "integer"},
    {"anyOf": []},
    json.loads('{"anyOf": [' * 300 + "{}" + "]}" * 300),
    {"%llguidance": {"no_forcing": "x"}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:40])
def test_no_schema_hangs_it_or_ends_it(server: Server, schema: Any) -> None:
    began = time.monotonic()
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = server.chat(response_format=shape, temperature=1, seed=1)
    if answer.status_code != 200:
        assert answer.status_code in (400, 500), answer.text
        check_error(answer, answer.status_code)
    assert time.monotonic() - began < 30
    fine = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["yes"]}}}
    again = server.chat(response_format=fine, max_tokens=8)
    assert again.json()["choices"][0]["message"]["content"] == '"yes"'


def test_a_grammar_and_a_bias_that_forbids_it_end_that_request_only(server: Server) -> None:
    shape = {"type": "json_schema", "json_schema": {"schema": {"enum": ["a", "b"]}}}
    for bias in ({str(at): -100 for at in range(300)}, {"0": 100}, {"2": -100}):
        answer = server.chat(response_format=shape, logit_bias=bias, max_tokens=8)
        assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize("text", ["<|im_start|>", "<", "\0", "a ", "　", "🏳️‍🌈", "\ufffd"])
def test_text_that_is_slow_to_read_holds_up_nobody(server: Server, text: str) -> None:
    long = text * (900_000 // len(json.dumps(text)))
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(server.chat, long)
        time.sleep(0.1)
        began = time.monotonic()
        tokens = pool.submit(server.post, "/tokenize", {"content": long})
        assert server.get("/health").status_code == 200
        assert server.chat(max_tokens=1).status_code == 200
        assert time.monotonic() - began < 5
        assert tokens.result(20).status_code in (200, 400)
        assert check_error(asked.result(20), 400)["code"] == "context_length_exceeded"


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A port that must not be called, and who did."""
    called: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    called.append(sock.accept())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield sock.getsockname()[1], called
        sock.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_nothing_is_fetched_for_a_client(server: Server, listener: tuple[int, list[Any]]) -> None:
    port, called = listener
    for url in (f"http://127.0.0.1:{port}/a", "file:///etc/passwd", "http://169.254.169.254/"):
        for part in (
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
            {"type": "file", "file": {"file_id": url}},
            {"type": "video_url", "video_url": {"url": url}},
        ):
            messages = [{"role": "user", "content": [part]}]
            check_error(server.post(CHAT, {"messages": messages}), 400, "messages[0].content[0]")
        schema = {"json_schema": {"schema": {"$ref": url}}, "type": "json_schema"}
        answer = server.chat(response_format=schema)
        assert "root:" not in answer.text
        check_error(answer, 400, "response_format")
        check_error(server.chat(model=url), 404, "model")
        check_error(server.post("/models/load", {"model": url}), 404)
    assert not called


def test_no_word_of_a_request_gets_into_the_log(server: Server) -> None:
    said = [{"role": "system", "content": SECRET}, {"role": "user", "content": f"Say {SECRET}."}]
    for fields in (
        {},
        {"stream": True},
        {"stop": [SECRET]},
        {"temperature": SECRET},
        {"user": SECRET},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": SECRET}}}},
        {"grammar": f"root ::= {SECRET}"},
        {"messages": [{"role": SECRET, "content": SECRET}]},
        {"messages": [*said, {"role": "user", "content": SECRET * 2000}]},
    ):
        answer = server.post(CHAT, {"messages": said, "max_tokens": 4} | fields)
        assert answer.status_code in (200, 400), answer.text
    server.post(CHAT, SECRET.encode())
    server.get("/v1/models", headers={"authorization": f"Bearer {SECRET}", "x-api-key": SECRET})
    assert "prompt_tokens" in server.log and SECRET not in server.log


def test_no_request_writes_a_line_of_its_own_into_the_log(server: Server) -> None:
    for path in ("/v1/%0aINFO:%20forged", "/v1/models/%0d%0aINFO:%20forged", "/%1b[2Jforged"):
        assert server.get(path).status_code == 404
    until(lambda: server.log.count("forged") == 3)  # a line is written after its answer
    lines = [line for line in server.log.splitlines() if "forged" in line]
    assert len(lines) == 3 and all(" GET /" in line for line in lines), lines
    assert "\x1b" not in server.log


ROUTES = sorted(
    route.path.replace("{id:path}", "smol").replace("{id}", "r1")
    for route in routes()
    if "POST" in (route.methods or ())
)
BROKEN = [
    *(b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"{}x", b"[" * 100_000, b'{"a":' * 100_000),
    *(b"\xef\xbb\xbf{}", '{"model": "smol"}'.encode("utf-16"), b'{"model": "\\ud800"}'),
    *(b'{"model": NaN}', b'{"model": 1e999}', b'{"model": ' + b"9" * 5000 + b"}"),
    *(b'{"model": {"a": [1]}}', b'{"model": "/etc/passwd"}', b'{"model": "../../x"}'),
]


@pytest.mark.parametrize("path", ROUTES)
def test_no_body_breaks_any_route(server: Server, path: str) -> None:
    for body in BROKEN:
        answer = server.post(path, body)
        if path.endswith(("load", "load/smol")) and answer.status_code == 200:
            continue  # what names its model in the path, or no other one, needs no body
        assert answer.status_code in (400, 404, 501), (body[:40], answer.text)
        error = answer.json()["error"]
        assert not INTERNAL.search(error["message"]), error


def test_many_answers_and_many_messages_are_bounded(server: Server) -> None:
    for n in (17, 10**6, 2**63):
        check_error(server.chat(n=n), 400, "n")
    body = asking(messages=[{"role": "user", "content": ""}] * 10_001)
    check_error(server.post(CHAT, body), 400, "messages")
    check_error(server.post("/v1/completions", {"prompt": ["a"] * 17}), 400, "prompt")
