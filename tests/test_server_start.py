"""Starting to serve: ports, keys, addresses, and the lines that people wait for."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from serving import CHAT, Server, asking, check_error, cli, model_file, running, until

from portable.cli.serve import Serving, server_config
from portable.errors import PortInUse, UsageError
from portable.flags import Listening, Logging
from portable.server.config import ServerConfig
from portable.server.ports import choose_port, listen, url

FAST = ("--threads", "1", "--context", "512")


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    with running(api_keys=["sekret-1", "sekret-2"], any_model=True) as made:
        yield made


def test_the_lines_that_people_wait_for() -> None:
    with cli(str(model_file()), "--port", "0", *FAST) as server:
        until(server.is_ready, 60)
        lines = server.log.splitlines()
        assert lines[0] == "--parallel auto: 1, sharing 512 tokens"
        assert lines[3:5] == [
            "INFO:     Application startup complete.",
            f"INFO:     Uvicorn running on {server.url} (Press CTRL+C to quit)",
        ]
        assert re.search(r"is ready in [\d.]+ s: all \d+ layers on CPU, 1 threads", server.log)
        assert server.port > 0


def test_a_port_that_was_asked_for_and_is_taken_ends_it_and_names_the_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with cli(str(model_file()), "--port", str(port)) as server:
            assert server.ended() == 98
            line = server.log.strip()
            assert re.fullmatch(rf"portable: port {port} is in use by \S+ \(process \d+\) .*", line)


def test_a_default_port_that_is_taken_is_stepped_over_with_a_line() -> None:
    said: list[str] = []
    taken = listen(ServerConfig(), said.append)
    begun = len(said)
    more = listen(ServerConfig(), said.append)
    first, second = (sockets[0].getsockname()[1] for sockets in (taken, more))
    for sock in (*taken, *more):
        sock.close()
    assert 8000 <= first < second
    assert f"port {first} is in use" in said[begun] and said[begun].endswith("trying the next port")


def test_two_servers_never_share_a_port() -> None:
    (held,) = listen(ServerConfig(port=0), print)
    with held, pytest.raises(PortInUse) as caught:
        choose_port(ServerConfig(port=held.getsockname()[1]), print)
    assert caught.value.exit_code == 98


def test_localhost_is_all_of_its_addresses() -> None:
    sockets = listen(ServerConfig(host="localhost", port=0), print)
    ports = {sock.getsockname()[1] for sock in sockets}
    names = {entry[4][0] for entry in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}
    assert {sock.getsockname()[0] for sock in sockets} <= names and len(ports) == 1
    assert {sock.proto for sock in sockets} == {socket.IPPROTO_TCP}, "asyncio asks for it"
    assert url(sockets[0]) == f"http://127.0.0.1:{ports.pop()}"
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "not a host"])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(UsageError, match="cannot listen on"):
        listen(ServerConfig(host=host, port=0, insecure=True), print)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "myname.lan"])
def test_beyond_this_machine_only_with_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="anybody who reaches"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, api_keys=("k",)) and ServerConfig(host=host, insecure=True)


def test_beyond_this_machine_without_a_key_exits_with_2() -> None:
    with cli(str(model_file()), "--host", "0.0.0.0") as server:
        assert server.ended() == 2
        assert server.log.startswith("portable: anybody who reaches 0.0.0.0")


def test_all_that_guards_it_from_the_command_line(tmp_path: Path) -> None:
    authority = trustme.CA()
    pems = [tmp_path / "cert.pem", tmp_path / "key.pem"]
    issued = authority.issue_cert("localhost", "127.0.0.1")
    pems[0].write_bytes(issued.cert_chain_pems[0].bytes())
    pems[1].write_bytes(issued.private_key_pem.bytes())
    kept = tmp_path / "keys"
    kept.write_text("# mine\nsk-kept\n")
    flags = {
        **{"--port": "0", "--host": "0.0.0.0", "--root-path": "/llm/", "--max-body": "1kb"},
        **{"--ssl-certfile": str(pems[0]), "--ssl-keyfile": str(pems[1])},
        **{"--api-key": "auto", "--api-key-file": str(kept), "--cors": "https://chat.example"},
    }
    said = [word for flag in flags.items() for word in flag]
    with cli(str(model_file()), *said, "--allowed-host", "llm.example", *FAST) as server:
        until(lambda: "Uvicorn running on https://0.0.0.0:" in server.log, 60)
        (made,) = re.findall(r"The API key of this run: (sk-\S+)\n", server.log)
        with httpx2.Client(trust_env=False, verify=trusting(authority)) as client:
            base = f"https://localhost:{server.port}/llm"
            assert client.get(f"{base}/health").status_code in (200, 503)
            check_error(client.get(f"{base}/v1/models"), 401)
            for key in (made, "sk-kept"):
                known = {"authorization": f"Bearer {key}", "origin": "https://chat.example"}
                answer = client.get(f"{base}/v1/models", headers=known)
                assert answer.status_code == 200
                assert answer.headers["access-control-allow-origin"] == "https://chat.example"
            check_error(client.get(f"{base}/v1/models", headers={"host": "evil.example"}), 403)
            check_error(client.post(base + CHAT, content=b"x" * 1001, headers=known), 413)
        assert server.log.count(made) == 1 and "sk-kept" not in server.log


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    "wrong",
    [
        {"cors": ["chat.example"]},
        {"root_path": "llm"},
        {"ssl_keyfile": Path("key.pem")},
        {"ssl_certfile": Path("nothing.pem")},
        {"api_key_file": Path("nothing")},
        {"api_key": [""]},
        {"max_body": "lots"},
        {"max_body": "off"},
        {"host": "0.0.0.0"},
    ],
    ids=str,
)
def test_a_flag_that_is_wrong_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        server_config(Listening(**wrong), Logging(), Serving())
    assert caught.value.exit_code == 2 and len(str(caught.value)) < 150


@pytest.mark.parametrize("keys", [("",), ("  ",), ("schlüssel",)])
def test_keys_that_cannot_be_sent_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        ServerConfig(api_keys=keys)


@pytest.mark.parametrize(
    ("content", "code"), [(b"", 3), (b"GGUF", 3), (b"not a model at all", 3), (None, 2)]
)
def test_what_is_no_model_is_told_before_anything_is_loaded(
    tmp_path: Path, content: bytes | None, code: int
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with cli(str(path), "--port", "0") as server:
        assert server.ended() == code
        assert "model.gguf" in server.log and "Traceback" not in server.log


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic sekret-1"},
        {"authorization": "Bearer sekret-1x"},
        {"authorization": "Bearer schlüssel".encode("latin-1")},
        {"authorization": "Bearer " + "k" * 60_000},
        {"x-api-key": "sekret"},
    ],
)
def test_without_the_key_nothing_is_told(locked: Server, headers: dict[str, str]) -> None:
    for response in (
        locked.get("/v1/models", headers=headers),
        locked.get("/nothing", headers=headers),
        locked.post(CHAT, b"{", headers=headers),
    ):
        error = check_error(response, 401)
        assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sekret-1"},
        {"authorization": "bearer  sekret-2"},
        {"x-api-key": "sekret-2"},
        {"x-api-key": "sekret-2", "authorization": "Bearer EMPTY"},
    ],
)
def test_with_a_key_it_answers(locked: Server, headers: dict[str, str]) -> None:
    assert locked.get("/v1/models", headers=headers).status_code == 200
    body = locked.post(CHAT, asking(max_tokens=1), headers=headers).json()
    assert body["choices"][0]["message"]["content"]


def test_health_needs_no_key_and_no_key_is_logged(locked: Server) -> None:
    assert locked.get("/health").json() == {"status": "ok"}
    assert "sekret" not in locked.log


def test_any_model_name_is_taken_if_the_operator_wants_it(locked: Server) -> None:
    key = {"x-api-key": "sekret-1"}
    body = locked.post(CHAT, asking(model="gpt-4o", max_tokens=1), headers=key).json()
    assert body["model"] == "SmolLM2-135M-Instruct"
