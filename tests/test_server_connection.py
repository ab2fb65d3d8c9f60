"""Connections that are slow, silent, too many or no HTTP, on a small application of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trustme
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from portable.server.config import ServerConfig
from portable.server.ports import listen
from portable.server.run import settings

FAST: dict[str, Any] = {
    "head_seconds": 0.2,
    "body_seconds": 0.3,
    "stall_seconds": 0.3,
    "idle_seconds": 1,
}
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"


class App:
    """Reads the body and says how long it was; `/endless` is a stream, `/early` reads nothing."""

    def __init__(self) -> None:
        self.left = 0
        self.sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0
        more = scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            read, more = read + len(message["body"]), message["more_body"]
        start = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        watch = asyncio.create_task(receive())
        while scope["path"] == "/endless" and not watch.done():
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            self.sent += 1000
            await asyncio.sleep(0)
        self.left += watch.done()
        watch.cancel()
        await send({"type": "http.response.body", "body": str(read).encode()})


class Place:
    """A port with the application behind it."""

    def __init__(self, app: App, state: ServerState, port: int) -> None:
        self.app, self.state, self.port = app, state, port

    async def connect(self, *said: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.writelines(said)
        return reader, writer

    async def ask(self, *said: bytes, drip: bytes = b"") -> bytes:
        """All that comes until the server closes, while one byte after the other is sent."""
        reader, writer = await self.connect(*said)
        dripping = asyncio.create_task(self._drip(writer, drip))
        try:
            async with asyncio.timeout(5):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            dripping.cancel()
            writer.close()

    async def _drip(self, writer: asyncio.StreamWriter, said: bytes) -> None:
        for byte in said:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def place(certificate: ssl.SSLContext | None = None, **limits: Any) -> AsyncIterator[Place]:
    app, state = App(), ServerState()
    own = ServerConfig(port=0, **FAST | limits)
    config = settings(app, own, certificate)
    config.load()
    (sock,) = listen(own, print)

    def connection() -> asyncio.Protocol:
        make: Any = config.http_protocol_class
        made: asyncio.Protocol = make(config=config, server_state=state, app_state={})
        return made

    server = await asyncio.get_running_loop().create_server(connection, sock=sock, ssl=config.ssl)
    try:
        yield Place(app, state, sock.getsockname()[1])
        async with asyncio.timeout(5):
            while state.connections or state.tasks:
                await asyncio.sleep(0.02)
    finally:
        server.close()


def play(script: Callable[[Place], Awaitable[None]], **limits: Any) -> None:
    """Run a script on a place; no connection and no task may be left over."""

    async def main() -> None:
        async with place(**limits) as made:
            await script(made)

    asyncio.run(main())


def error(answer: bytes, status: int) -> str:
    """The code of an answer in OpenAI's shape, after which the connection was closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"content-type: application/json" in head and b"connection: close" in head.lower()
    code: str = json.loads(body)["error"]["code"]
    return code


@pytest.mark.parametrize("said", [b"G", GET[:-2], b"GET / HTTP/1.1\r\nA: " + b"b" * 9000])
def test_a_head_that_never_ends_is_not_waited_for(said: bytes) -> None:
    async def script(made: Place) -> None:
        assert error(await made.ask(said), 408) == "request_timeout"

    play(script)


def test_a_head_that_drips_is_not_waited_for() -> None:
    async def script(made: Place) -> None:
        assert error(await made.ask(drip=b"GET / HTTP/1.1\r\nHost: localhost"), 408)

    play(script)


def test_who_says_nothing_is_closed_without_a_word() -> None:
    async def script(made: Place) -> None:
        assert await made.ask() == b""

    play(script)


def test_between_two_requests_there_is_more_time_and_an_end() -> None:
    async def script(made: Place) -> None:
        reader, writer = await made.connect(GET)
        await reader.readuntil(b"\r\n0\r\n\r\n")
        await asyncio.sleep(0.5)
        writer.write(GET)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()

    play(script)


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
def test_a_body_that_never_ends_is_not_waited_for(method: bytes) -> None:
    async def script(made: Place) -> None:
        answer = await made.ask(POST.replace(b"POST", method), b"x" * 50)
        assert answer.startswith(b"HTTP/1.1 408 ") and made.app.left == 1
        if method == b"POST":
            assert error(answer, 408) == "request_timeout"

    play(script)


def test_a_body_that_drips_is_not_waited_for() -> None:
    async def script(made: Place) -> None:
        assert error(await made.ask(POST, drip=b"x" * 100), 408)
        assert made.app.left == 1

    play(script)


def test_a_long_body_that_keeps_coming_is_read() -> None:
    async def script(made: Place) -> None:
        reader, writer = await made.connect(POST)
        for _ in range(20):  # 1 s, where 0.6 s and a second for each 16 KiB are allowed
            writer.write(b"x" * 5_000)
            await asyncio.sleep(0.05)
        assert b"100000" in await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()

    play(script, body_seconds=0.6)


def test_an_answer_is_seen_though_its_body_is_still_being_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("portable.server.connection._LINGER", 0.2)

    async def script(made: Place) -> None:
        said = POST.replace(b"/", b"/early", 1), b"x" * 50_000
        answer = await made.ask(*said, drip=b"x" * 100)
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n0\r\n\r\n")

    play(script, body_seconds=5.0)


@contextlib.asynccontextmanager
async def endless(made: Place) -> AsyncIterator[socket.socket]:
    """A stream that has begun, on a socket that takes little."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", made.port))
        await loop.sock_sendall(sock, GET.replace(b"/", b"/endless", 1))
        assert await loop.sock_recv(sock, 100)
        yield sock


def test_who_does_not_read_is_cut_and_little_is_kept_for_them() -> None:
    async def script(made: Place) -> None:
        async with endless(made), asyncio.timeout(5):
            (connection,) = made.state.connections
            while made.state.connections:
                assert connection.transport.get_write_buffer_size() <= 70_000
                await asyncio.sleep(0.02)
            while made.state.tasks:
                await asyncio.sleep(0.02)
        assert made.app.left == 1

    play(script)


@pytest.mark.parametrize("least", [4096, 1 << 30], ids=["seen-at-checks", "seen-between-checks"])
def test_who_reads_slowly_is_not_cut(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable.server.connection._PROGRESS", least)

    async def script(made: Place) -> None:
        async with endless(made) as sock:
            for _ in range(70):  # 1.4 s; the system tells the server of each 40 KiB or so
                assert await asyncio.get_running_loop().sock_recv(sock, 16384)
                await asyncio.sleep(0.02)
            (connection,) = made.state.connections
            assert connection.transport.get_write_buffer_size() and not made.app.left

    play(script, stall_seconds=0.6)


def test_too_many_connections_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable.server.connection._SPARE", 2)

    async def script(made: Place) -> None:
        held = [await made.connect() for _ in range(3)]
        await asyncio.sleep(0.05)
        told = await made.ask(GET)
        assert error(told, 503) == "too_many_connections" and b"retry-after: 2" in told.lower()
        held += [await made.connect() for _ in range(2)]
        assert await made.ask(GET) == b""
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.05)
        reader, writer = await made.connect(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()

    play(script, max_connections=3, head_seconds=5.0)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, 400),  # TLS
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (GET[:-2] + b"A\x00b: c\r\n\r\n", 400),
        (GET[:-2] + b"A: b\rc\r\n\r\n", 400),
        (GET[:-2] + b"A : b\r\n\r\n", 400),
        (GET[:-2] + b"Host: other\r\n\r\n", 400),
        (GET[:-2] + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (GET[:-2] + b"Content-Length: -1\r\n\r\n", 400),
        (GET[:-2] + b"Content-Length: +1\r\n\r\n", 400),
        (GET[:-2] + b"Content-Length: 1,2\r\n\r\n", 400),
        (GET[:-2] + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (GET[:-2] + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (GET[:-2] + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
        (GET[:-2] + b"A: " + b"b" * 70_000, 431),
        (b"GET /" + b"a" * 70_000, 431),
    ],
    ids=lambda value: str(value)[2:24],
)
def test_what_is_no_http_is_told_so_in_json(said: bytes, status: int) -> None:
    async def script(made: Place) -> None:
        code = error(await made.ask(said), status)
        assert code == ("bad_http" if status == 400 else "too_many_headers")

    play(script)


@pytest.mark.parametrize(
    "chunk",
    [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefg\r\n", b"1;" + b"x" * 70_000, b"f" * 21 + b"\r\n"],
    ids=lambda value: str(value)[2:12],
)
def test_broken_chunks_end_the_request(chunk: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async def script(made: Place) -> None:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await made.ask(head, chunk)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), answer
        assert made.app.left == 1

    play(script)
    assert "Invalid HTTP" in (log := capsys.readouterr().err) and "Traceback" not in log


def test_many_requests_at_once_on_one_connection_are_answered_in_turn() -> None:
    async def script(made: Place) -> None:
        reader, writer = await made.connect(GET * 500)
        for _ in range(500):
            await reader.readuntil(b"\r\n0\r\n\r\n")
        assert len(made.state.tasks) <= 1
        writer.close()

    play(script)


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_no_other_protocol_is_spoken(protocol: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async def script(made: Place) -> None:
        upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
        reader, writer = await made.connect(GET[:-2] + upgrade)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()

    play(script)
    assert not capsys.readouterr().err


def test_a_certificate_makes_it_https_with_the_same_limits() -> None:
    authority = trustme.CA()
    trusted, certificate = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(trusted)
    authority.issue_cert("localhost").configure_cert(certificate)

    async def script(made: Place) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", made.port, ssl=trusted, server_hostname="localhost"
        )
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(GET[:-2])
        assert error(await reader.read(), 408) == "request_timeout"
        writer.close()
        assert not (await made.ask(GET)).startswith(b"HTTP")

    play(script, certificate=certificate)
