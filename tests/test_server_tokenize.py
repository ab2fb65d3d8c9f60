"""/tokenize, /detokenize, /apply-template, …/input_tokens and /props."""

from __future__ import annotations

from typing import Any

import pytest
from serving import Server, asking, check_error, server

__all__ = ["server"]
TEXT = "This is a test with unicode 媽 and emoji 🤗"
USER = {"role": "user", "content": "What is today?"}


def tokens(server: Server, **fields: Any) -> Any:
    response = server.post("/tokenize", fields)
    assert response.status_code == 200, response.text
    return response.json()["tokens"]


def test_texts_and_tokens_there_and_back(server: Server) -> None:
    body = server.post("/tokenize", {"content": TEXT}).json()
    assert body["count"] == len(body["tokens"]) > 5 and body["max_model_len"] == 2048
    again = server.post("/detokenize", {"tokens": body["tokens"]}).json()
    assert again == {"content": TEXT}
    assert tokens(server, prompt=TEXT) == body["tokens"]


def test_pieces_are_texts_or_bytes(server: Server) -> None:
    found = tokens(server, content=TEXT, with_pieces=True)
    data = b"".join(
        piece.encode() if isinstance(piece := one["piece"], str) else bytes(piece) for one in found
    )
    assert data.decode() == TEXT and any(isinstance(one["piece"], list) for one in found)


def test_control_tokens_are_named_or_spelled(server: Server) -> None:
    text = "<|im_end|>"
    (one,) = tokens(server, content=text, with_pieces=True)
    assert one["piece"] == text
    assert len(tokens(server, content=text, parse_special=False)) > 1


def test_a_conversation_is_what_the_template_makes_of_it(server: Server) -> None:
    prompt = server.post("/apply-template", {"messages": [USER]}).json()["prompt"]
    assert prompt.endswith("<|im_start|>user\nWhat is today?<|im_end|>\n<|im_start|>assistant\n")
    found = tokens(server, messages=[USER])
    assert found == tokens(server, content=prompt)
    pieces = tokens(server, messages=[USER], with_pieces=True)
    assert "".join(one["piece"] for one in pieces) == prompt
    counted = server.post("/v1/chat/completions/input_tokens", {"messages": [USER]}).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": len(found)}
    answer = server.post("/v1/chat/completions", asking(USER["content"])).json()
    assert answer["usage"]["prompt_tokens"] == len(found)


def test_the_prompt_for_an_answer_can_be_left_out(server: Server) -> None:
    asked = {"messages": [USER], "add_generation_prompt": False}
    assert server.post("/apply-template", asked).json()["prompt"].endswith("today?<|im_end|>\n")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 1}, "content"),
        ("/tokenize", {"content": "a" * 200_000}, "content"),
        ("/tokenize", {"content": "a", "messages": [USER]}, "content"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"content": "a", "model": "nobody"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens"),
        ("/detokenize", {"tokens": [1, 49152]}, "tokens"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": [{"role": "cat", "content": "a"}]}, "messages[0].role"),
        ("/v1/chat/completions/input_tokens", {"messages": "a"}, "messages"),
    ],
)
def test_wrong_fields_are_named(server: Server, path: str, body: Any, param: str) -> None:
    check_error(server.post(path, body), 404 if param == "model" else 400, param)


def test_props_tell_what_runs_and_no_path(server: Server) -> None:
    response = server.get("/props")
    told = response.json()
    assert told["task"] == "generate" and told["model_alias"] == "SmolLM2-135M-Instruct"
    assert told["default_generation_settings"]["n_ctx"] == told["n_ctx"] == 2048
    assert "im_start" in told["chat_template"] and told["eos_token"] == "<|im_end|>"
    assert told["chat_template_caps"] == {"system": True, "tools": False, "thinking": False}
    assert "CPU" in told["offload_reason"] and told["total_slots"] == 16
    assert ".gguf" not in response.text
    assert server.get("/props?model=smol").json()["model_alias"] == told["model_alias"]
    check_error(server.get("/props?model=nobody"), 404, "model")
