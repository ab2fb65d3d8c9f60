"""The wire to the letter: every row of the client-compatibility matrix, on a real server."""

from __future__ import annotations

import json
import socket
import time

import pytest
from serving import CHAT, Server, asking, check_error, events, server, text_of

__all__ = ["server"]
USAGE = {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}


def test_a_stream_begins_and_ends_as_both_clients_need_it(server: Server) -> None:
    chunks = events(server.chat(stream=True))
    first, last = chunks[0]["choices"][0], chunks[-1]["choices"][0]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert (last["delta"], last["finish_reason"]) == ({"content": ""}, "length")
    assert set(chunks[-1]["usage"]) == USAGE
    assert chunks[-1]["usage"]["completion_tokens"] == 4


def test_every_chunk_has_one_choice_with_a_text_and_the_same_head(server: Server) -> None:
    chunks = events(server.chat(stream=True))
    assert all(isinstance(c["choices"][0]["delta"]["content"], str) for c in chunks)
    assert {len(c["choices"]) for c in chunks} == {1}
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert all(c["choices"][0]["finish_reason"] is None for c in chunks[:-1])
    assert all("usage" not in c for c in chunks[:-1])


def test_include_usage_is_a_chunk_of_its_own_with_no_choice(server: Server) -> None:
    chunks = events(server.chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == [] and set(chunks[-1]["usage"]) == USAGE
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert "usage" not in chunks[-2]


def test_a_stream_is_not_held_back_by_proxies(server: Server) -> None:
    headers = server.chat(stream=True).headers
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_a_whole_answer_has_the_keys_that_the_tutorial_shows(server: Server) -> None:
    body = server.chat().json()
    (choice,) = body["choices"]
    assert {"model", "choices", "usage", "id", "object", "created"} <= set(body)
    assert choice.keys() == {"index", "message", "finish_reason", "logprobs"}
    assert choice["message"].keys() == {"role", "content", "tool_calls"}
    assert isinstance(choice["message"]["content"], str) and choice["message"]["tool_calls"] is None
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-")
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 4


@pytest.mark.parametrize("text", ["Say hi.", "你是谁？", "Write 🎉🇩🇪👨‍👩‍👧 and é, ü."])
@pytest.mark.parametrize("more", [{}, {"temperature": 1, "seed": 42, "top_p": 0.9}])
def test_a_stream_says_what_the_whole_answer_says(
    server: Server, text: str, more: dict[str, float]
) -> None:
    fields = {"max_tokens": 12, **more}
    server.chat(text, **fields)  # so that both of the next find the same prefix in the cache
    whole = server.chat(text, **fields).json()["choices"][0]
    chunks = events(server.chat(text, stream=True, **fields))
    assert text_of(chunks) == whole["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]


def test_whole_characters_only(server: Server) -> None:
    """Emoji are several tokens, none of which is a character: their ids are forced one by one."""
    said = "🎉"
    prompt = f"Repeat exactly: {said * 12}\n{said * 12}\nRepeat exactly: {said * 12}\n"
    fields = {"prompt": prompt, "max_tokens": 7, "temperature": 0, "stream": True}
    chunks = events(server.post("/v1/completions", fields))
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert said in "".join(texts)
    assert not any("\ufffd" in text for text in texts[:-2]), texts


@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_stop_string_never_leaks(server: Server, at: int) -> None:
    fields = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 16, "temperature": 0}
    full = server.post("/v1/completions", fields).json()["choices"][0]["text"]
    stop = full[at : at + 4]
    for stream in (False, True):
        response = server.post(
            "/v1/completions", {**fields, "stop": [stop, "@@"], "stream": stream}
        )
        if stream:
            chunks = events(response)
            text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
            reason = chunks[-1]["choices"][0]["finish_reason"]
        else:
            text, reason = (response.json()["choices"][0][key] for key in ("text", "finish_reason"))
        assert (text, reason) == (full[: full.index(stop)], "stop")


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1, "seed": 42}])
def test_the_same_request_again_gives_the_same_text(
    server: Server, fields: dict[str, float]
) -> None:
    asked = {"text": "Tell me a story.", "max_tokens": 16, **fields}
    texts = {server.chat(**asked).json()["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(texts) == 1


def test_no_temperature_is_too_small(server: Server) -> None:
    greedy = server.chat(max_tokens=8).json()["choices"][0]["message"]
    for tiny in (1e-300, 1e-45, 1e-10):
        cold = server.chat(max_tokens=8, temperature=tiny, top_k=50).json()
        assert cold["choices"][0]["message"] == greedy


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "SmolLM2-135M-Instruct",
        "smollm2-135m-INSTRUCT",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "huggingfacetb/smollm2-135m-instruct",
        "smol",
    ],
)
def test_all_names_of_the_model_are_its_name(server: Server, name: str | None) -> None:
    body = server.chat(model=name, max_tokens=1).json()
    assert body["model"] == "SmolLM2-135M-Instruct"


def test_an_unknown_model_is_not_found_and_the_right_one_named(server: Server) -> None:
    error = check_error(server.chat(model="SmolLM2-135-Instruct"), 404, "model")
    assert error["code"] == "model_not_found"
    assert "did you mean 'SmolLM2-135M-Instruct'?" in error["message"]
    check_error(server.chat(model="gpt-4o", stream=True), 404, "model")
    assert len(check_error(server.chat(model="x" * 500_000), 404)["message"]) < 500


def test_the_list_of_models(server: Server) -> None:
    body = server.get("/v1/models").json()
    assert body["object"] == "list"
    entry = body["data"][0]
    assert (entry["id"], entry["object"], entry["owned_by"]) == (
        "SmolLM2-135M-Instruct",
        "model",
        "portable",
    )
    assert (entry["meta"]["n_ctx"], entry["meta"]["state"]) == (2048, "ready")
    assert server.get("/v1/models/HuggingFaceTB/SmolLM2-135M-Instruct").json()["id"] == entry["id"]
    check_error(server.get("/v1/models/nobody/knows"), 404, "model")


def test_v1_may_be_left_out(server: Server) -> None:
    assert server.get("/models").json() == server.get("/v1/models").json()
    assert server.post("/chat/completions", asking()).json()["object"] == "chat.completion"


@pytest.mark.parametrize(
    "path", ["/health", "/v1/health", "/ping", "/healthz", "/livez", "/readyz"]
)
def test_health(server: Server, path: str) -> None:
    assert (server.get(path).status_code, server.get(path).json()) == (200, {"status": "ok"})
    head = server.client.head(server.url + path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("1, 2, 3,", 1), (["1, 2, 3,", "A, B,"], 2), ([33, 28, 216], 1), ([[33, 28], [34, 28]], 2)],
)
def test_completions_take_texts_and_token_ids(server: Server, prompt: object, choices: int) -> None:
    body = server.post(
        "/v1/completions", {"prompt": prompt, "max_tokens": 3, "temperature": 0}
    ).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(choices))
    assert all(choice["finish_reason"] == "length" for choice in body["choices"])
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-")
    assert body["usage"]["completion_tokens"] == 3 * choices


def test_completions_echo_and_stream(server: Server) -> None:
    fields = {"prompt": "1, 2, 3,", "max_tokens": 3, "temperature": 0, "echo": True}
    whole = server.post("/v1/completions", fields).json()["choices"][0]["text"]
    chunks = events(server.post("/v1/completions", {**fields, "stream": True}))
    assert whole.startswith("1, 2, 3, 4")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


def test_no_tokens_wanted_reads_the_prompt_only(server: Server) -> None:
    body = server.chat(max_tokens=0).json()
    assert body["choices"][0]["message"]["content"] == ""
    assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (
        0,
        "length",
    )


def test_an_answer_that_cannot_be_as_long_says_so_in_a_header(server: Server) -> None:
    response = server.chat("Say only: yes", max_tokens=1_000_000, stop=["e", "s", "a", "i", " "])
    left = 2048 - response.json()["usage"]["prompt_tokens"]
    assert response.headers["x-portable-clamped"] == str(left)
    assert "x-portable-clamped" not in server.chat().headers


def test_request_ids_are_echoed_or_made(server: Server) -> None:
    assert (
        server.get("/health", headers={"x-request-id": "mine.1"}).headers["x-request-id"]
        == "mine.1"
    )
    assert server.get("/health").headers["x-request-id"].startswith("req-")
    odd = server.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert odd.startswith("req-")
    refused = server.post(CHAT, b"{", headers={"x-request-id": "mine.2"})
    assert refused.headers["x-request-id"] == "mine.2"
    assert int(refused.headers["openai-processing-ms"]) >= 0


def test_unknown_routes_and_methods_in_the_same_shape(server: Server) -> None:
    assert check_error(server.get("/v1/nothing"), 404)["code"] == "not_found"
    refused = server.get(CHAT)
    assert check_error(refused, 405)["code"] == "method_not_allowed"
    assert refused.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.com", 403),
        ("localhost@evil.com", 403),
        ("", 403),
    ],
)
def test_only_this_machines_names_are_served(server: Server, host: str, status: int) -> None:
    response = server.get("/v1/models", headers={"host": host})
    assert response.status_code == status
    if status == 403:
        assert check_error(response, 403)["code"] == "host_not_allowed"


def test_a_body_that_is_too_large_is_refused_unread(server: Server) -> None:
    assert (
        check_error(server.post(CHAT, b"x" * (1 << 20) + b"x"), 413)["code"] == "request_too_large"
    )

    def pieces() -> object:
        for _ in range(40):
            yield b"y" * 65536

    response = server.client.post(server.url + CHAT, content=pieces())
    assert check_error(response, 413)["code"] == "request_too_large"
    assert server.is_ready()


def test_silence_is_filled_with_chunks_of_no_text(server: Server) -> None:
    """keep_alive_seconds is 0.5 here; reading this prompt takes longer on any laptop."""
    chunks = events(server.chat("word " * 400, stream=True, max_tokens=1))
    early = [c["choices"][0]["delta"] for c in chunks[:-2]]
    if chunks[-1]["timings"]["prompt_seconds"] > 1:
        assert {"content": ""} in early
    assert all(delta["content"] == "" for delta in early)


def test_the_role_chunk_comes_before_the_prompt_is_read(server: Server) -> None:
    body = asking("other word " * 300, stream=True, max_tokens=1)
    started, came = time.monotonic(), []
    with server.client.stream("POST", server.url + CHAT, json=body) as response:
        for line in filter(None, response.iter_lines()):
            came.append((line, time.monotonic() - started))
    (first, at), (last, end) = came[0], came[-2]
    assert json.loads(first[6:])["choices"][0]["delta"]["role"] == "assistant"
    assert end - at > 0.9 * json.loads(last[6:])["timings"]["prompt_seconds"]


def test_two_requests_on_one_connection_and_an_old_client(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = b"".join(iter(lambda: sock.recv(65536), b""))
    assert said.count(b"200 OK") == 3
