"""What stands before every route: names, pages, keys, and heads that promise ill; certificates."""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from portable.errors import UsageError
from portable.server import tls
from portable.server.config import ServerConfig
from portable.server.guard import Guard
from portable.server.keys import read_keys

CHAT = "/v1/chat/completions"
EVIL = "https://evil.example"


class Answer:
    """What came back; `path` is what the application behind the guard saw, if it was asked."""

    status = 0
    path: str | None = None
    headers: dict[str, str]
    body = b""

    @property
    def code(self) -> str:
        code: str = json.loads(self.body)["error"]["code"]
        return code


def ask(
    config: ServerConfig, headers: dict[str, str], method: str = "POST", path: str = CHAT
) -> Answer:
    """One request to an application that answers 200 to everything."""
    answer = Answer()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer.path = scope["path"]
        await Response("fine", headers={"vary": "accept"})(scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        answer.body += message.get("body", b"")

    raw = [
        (k.encode(), v.encode("latin-1")) for k, v in ({"host": "localhost:8000"} | headers).items()
    ]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Guard(app, config)(scope, receive, send))
    return answer


LOCAL = ServerConfig(cors=("https://Chat.Example", "app://obsidian.md"))
OPEN = ServerConfig(host="0.0.0.0", insecure=True)
PROXIED = ServerConfig(allowed_hosts=("llm.example",), root_path="/llm")


@pytest.mark.parametrize(
    ("config", "headers", "allowed"),
    [
        (LOCAL, {}, True),
        (LOCAL, {"origin": "http://localhost:3000"}, True),
        (LOCAL, {"origin": "https://127.0.0.1"}, True),
        (LOCAL, {"origin": "http://[::1]:5173"}, True),
        (LOCAL, {"origin": "https://chat.example"}, True),
        (LOCAL, {"origin": "app://obsidian.md"}, True),
        (LOCAL, {"origin": EVIL}, False),
        (LOCAL, {"origin": "null"}, False),
        (LOCAL, {"origin": ""}, False),
        (LOCAL, {"origin": "https://chat.example:8443"}, False),
        (LOCAL, {"origin": "http://chat.example"}, False),
        (LOCAL, {"origin": "http://localhost.evil.example"}, False),
        (LOCAL, {"origin": "http://evil.example#localhost"}, False),
        (LOCAL, {"origin": "http://localhost:80@evil.example"}, False),
        (LOCAL, {"origin": "http://localhost, http://evil.example"}, False),
        (LOCAL, {"origin": "file://localhost"}, False),
        (LOCAL, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        (LOCAL, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        (OPEN, {"host": "my.lan:8000", "origin": "http://my.lan:8000"}, True),
        (OPEN, {"host": "my.lan:8000", "origin": "http://my.lan:8001"}, False),
        (OPEN, {"host": "my.lan", "origin": EVIL}, False),
        (PROXIED, {"host": "llm.example", "origin": "https://llm.example"}, True),
        (PROXIED, {"host": "127.0.0.1:8000", "origin": "https://llm.example"}, True),
        (
            PROXIED,
            {"host": "127.0.0.1:8000", "origin": EVIL, "sec-fetch-site": "same-origin"},
            True,
        ),
        (ServerConfig(cors=("*",)), {"origin": EVIL}, True),
        (ServerConfig(cors=("*",)), {"origin": "null"}, False),
    ],
)
def test_only_pages_that_may_ask_are_answered(
    config: ServerConfig, headers: dict[str, str], allowed: bool
) -> None:
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/health"), ("GET", "/")):
        answer = ask(config, headers, method, path)
        assert (answer.status, answer.path is not None) == (
            (200, True) if allowed else (403, False)
        )
        seen = headers.get("origin") if allowed else None
        assert answer.headers.get("access-control-allow-origin") == seen
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        if not allowed:
            assert answer.code == "origin_not_allowed"


PREFLIGHT = {
    "origin": "http://localhost:3000",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,x-stainless-lang,anthropic-version",
}


def test_a_browser_may_ask_before_it_asks_without_a_key() -> None:
    answer = ask(ServerConfig(api_keys=("k",)), PREFLIGHT, "OPTIONS")
    assert (answer.status, answer.body, answer.path) == (204, b"", None)
    assert answer.headers["access-control-allow-origin"] == PREFLIGHT["origin"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert (
        answer.headers["access-control-allow-headers"]
        == PREFLIGHT["access-control-request-headers"]
    )


def test_a_preflight_of_somebody_else_is_refused_and_an_odd_one_not_repeated() -> None:
    assert ask(LOCAL, PREFLIGHT | {"origin": EVIL}, "OPTIONS").code == "origin_not_allowed"
    odd = PREFLIGHT | {"access-control-request-headers": "a<b>;c"}
    assert "a<b>" not in ask(LOCAL, odd, "OPTIONS").headers["access-control-allow-headers"]


def test_a_page_may_read_why_its_key_was_refused() -> None:
    answer = ask(ServerConfig(api_keys=("k",)), {"origin": "http://localhost:3000"})
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize(
    ("config", "host", "status"),
    [
        (LOCAL, "localhost", 200),
        (LOCAL, "LOCALHOST:1", 200),
        (LOCAL, "llm.example", 403),
        (LOCAL, "localhost.", 403),
        (LOCAL, "127.1", 403),
        (LOCAL, "[::1", 403),
        (LOCAL, "", 403),
        (PROXIED, "llm.example", 200),
        (PROXIED, "LLM.example:443", 200),
        (PROXIED, "evil.example", 403),
        (OPEN, "evil.example", 200),
        (ServerConfig(host="0.0.0.0", insecure=True, allowed_hosts=("a",)), "evil.example", 403),
    ],
)
def test_only_names_of_this_server_are_served(config: ServerConfig, host: str, status: int) -> None:
    assert ask(config, {"host": host}).status == status


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("/llm/v1/models", "/v1/models"),
        ("/v1/models", "/v1/models"),
        ("/llm/", "/"),
        ("/llmx/v1", "/llmx/v1"),
        ("/llm/llm/v1", "/llm/v1"),
    ],
)
def test_a_proxys_prefix_may_come_along_or_not(asked: str, seen: str) -> None:
    assert ask(PROXIED, {}, "GET", asked).path == seen


def test_the_prefix_opens_no_way_around_the_key() -> None:
    config = ServerConfig(api_keys=("k",), root_path="/health")
    assert ask(config, {}, "GET", "/health/v1/models").status == 401
    assert ask(config, {}, "GET", "/health/health").status == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-encoding": "gzip"}, 415, "unsupported_content_encoding"),
        ({"content-encoding": "identity, br"}, 415, "unsupported_content_encoding"),
        ({"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        ({"content-length": "5", "transfer-encoding": "chunked"}, 400, "ambiguous_length"),
        ({"content-length": str(1 << 40)}, 413, "request_too_large"),
        ({"content-length": "9" * 20}, 413, "request_too_large"),
        ({f"x-{at}": "y" for at in range(100)}, 431, "too_many_headers"),
        ({"x-http-method-override": "DELETE"}, 200, None),
        ({"content-type": "application/x-www-form-urlencoded"}, 200, None),
        ({"content-type": "text/plain; charset=x"}, 200, None),
        ({"content-encoding": "identity"}, 200, None),
    ],
)
def test_a_head_that_promises_ill(headers: dict[str, str], status: int, code: str | None) -> None:
    answer = ask(ServerConfig(), headers)
    assert answer.status == status and (code is None or answer.code == code)


def test_every_key_is_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, known: bytes) -> bool:
        seen.append((given, known))
        return given == known

    monkeypatch.setattr(hmac, "compare_digest", compare)
    answer = ask(ServerConfig(api_keys=("a", "b", "c")), {"authorization": "Bearer a"})
    assert answer.status == 200
    assert seen == [(b"a", b"a"), (b"a", b"b"), (b"a", b"c")]


def test_keys_come_from_the_command_line_a_file_or_nowhere(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "keys"
    file.write_text("# mine\n\n  sk-one \nsk-two\n")
    file.chmod(0o600)
    assert read_keys(["given"], file, said.append) == ("given", "sk-one", "sk-two")
    assert not said
    file.chmod(0o644)
    read_keys([], file, said.append)
    assert said == [f"Everybody on this machine can read {file}: chmod 600 {file}"]


def test_a_key_is_made_and_said_once_and_kept_out_of_descriptions() -> None:
    said: list[str] = []
    first, second = read_keys(["auto", "auto"], None, said.append)
    assert first != second and len(first) > 40
    assert [line.rsplit(" ", 1)[1] for line in said] == [first, second]
    assert first not in repr(ServerConfig(api_keys=(first,)))


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n\n", b"\xff\xfe\x00"])
def test_a_file_without_keys_is_told(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match="--api-key-file"):
        read_keys([], file, print)


@pytest.mark.parametrize(
    "origin", ["chat.example", "https://a/b", "null", "", "https://", "a b://c"]
)
def test_what_is_no_origin_is_told(origin: str) -> None:
    with pytest.raises(UsageError, match="--cors"):
        ServerConfig(cors=(origin,))


@pytest.mark.parametrize("prefix", ["llm", "/llm/", "//llm", "/a b", "/ä", "/"])
def test_what_is_no_prefix_is_told(prefix: str) -> None:
    with pytest.raises(UsageError, match="--root-path"):
        ServerConfig(root_path=prefix)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate with its key, another key, an encrypted one, and what is no PEM file."""
    from cryptography.hazmat.primitives import serialization as s

    folder = tmp_path_factory.mktemp("tls")
    issued, other = (trustme.CA().issue_cert("localhost") for _ in range(2))
    made = {name: folder / f"{name}.pem" for name in ("cert", "key", "other", "locked", "junk")}
    made["cert"].write_bytes(issued.cert_chain_pems[0].bytes())
    made["key"].write_bytes(issued.private_key_pem.bytes())
    made["other"].write_bytes(other.private_key_pem.bytes())
    key = s.load_pem_private_key(issued.private_key_pem.bytes(), None)
    style = s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
    made["locked"].write_bytes(key.private_bytes(*style))
    made["junk"].write_bytes(b"no certificate")
    return made | {"none": folder / "none.pem", "folder": folder}


def test_a_certificate_with_its_key_is_taken(pems: dict[str, Path]) -> None:
    assert tls.context(ServerConfig()) is None
    config = ServerConfig(ssl_certfile=pems["cert"], ssl_keyfile=pems["key"])
    assert isinstance(tls.context(config), ssl.SSLContext)


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("cert", "other", "is not the key of"),
        ("cert", "locked", "is encrypted"),
        ("cert", "junk", "no certificate with its key"),
        ("junk", "key", "no certificate with its key"),
        ("cert", None, "no certificate with its key"),
        ("none", "key", "--ssl-certfile .*none.pem: No such file"),
        ("cert", "folder", "--ssl-keyfile .*: Is a directory"),
        (None, "key", "needs --ssl-certfile"),
    ],
)
def test_files_that_are_no_certificate_are_told(
    pems: dict[str, Path], certificate: str | None, key: str | None, said: str
) -> None:
    named = pems[certificate] if certificate else None, pems[key] if key else None
    with pytest.raises(UsageError, match=said):
        tls.context(ServerConfig(ssl_certfile=named[0], ssl_keyfile=named[1]))
