"""What clients send that is wrong, odd or hostile: 200, or 4xx that names the field, never 500."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import CHAT, Server, asking, check_error, server

from portable.server.wire.chat import ChatRequest
from portable.server.wire.completions import CompletionRequest

__all__ = ["server"]

ODD = (
    *("null", "true", "false", '""', '"1"', '"nan"', "[]", "{}", "[1]", "NaN", "Infinity"),
    *(
        "-Infinity",
        "1e999",
        "-1e999",
        "1e-400",
        "1e-300",
        "-0.0",
        "-1",
        "0",
        "1",
        "1.5",
        "2.0000001",
        "7",
    ),
    *(str(2**31), str(-(2**31) - 1), str(2**63), str(2**64), "9" * 25, "9" * 5000, "1e-30"),
)
# These may unload the model: test_server_fleet has them.
LODGING = {"keep_alive", "ttl"}
FIELDS = sorted({*ChatRequest.__struct_fields__} - LODGING)
OWN = sorted({*CompletionRequest.__struct_fields__} - {*ChatRequest.__struct_fields__})


def send(server: Server, raw: str, path: str = CHAT) -> Any:
    return server.post(path, raw.encode("utf-8", "surrogatepass"))


def raw_request(field: str, value: str) -> str:
    """A request in which one field has this text, be it JSON or not."""
    fields = {"messages": '[{"role": "user", "content": "hi"}]', "max_tokens": "1"}
    fields |= {"temperature": "0", field: value}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"


@pytest.mark.parametrize("field", FIELDS)
def test_an_odd_value_is_answered_or_named(server: Server, field: str) -> None:
    for value in ODD:
        if field.startswith("max_") and value in ("7", "null", str(2**31)):
            continue  # these are right, and make a long answer
        response = send(server, raw_request(field, value))
        if response.status_code == 404 and field == "model":
            continue
        if response.status_code != 200:
            parses = "N" not in value and "I" not in value
            error = check_error(response, 400, field if parses else None)
            assert parses or "line 1 column" in error["message"]


@pytest.mark.parametrize("field", OWN)
def test_an_odd_value_beside_a_prompt_is_answered_or_named(server: Server, field: str) -> None:
    for value in ODD:
        fields = {"prompt": '"hi"', "max_tokens": "1"} | {field: value}
        body = "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
        response = send(server, body, "/v1/completions")
        if response.status_code != 200:
            check_error(response, 400)


@pytest.mark.parametrize("field", [f for f in FIELDS if f != "messages"])
def test_null_is_as_if_not_said(server: Server, field: str) -> None:
    fields = {"stop": ["\n", "a", "e", " "], field: None}
    assert server.chat("Say: yes", **fields).status_code == 200


USER = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([USER], None),
        ([{"role": "developer", "content": "Be brief."}, USER], None),
        ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], None),
        ([{"role": "user", "content": []}], None),
        ([USER, {"role": "assistant", "content": None}, USER], None),
        ([USER, {"role": "assistant", "tool_calls": [CALL]}, USER], None),
        ([{"role": "user", "content": "hi", "name": "me", "extra": [1]}], None),
        ([{"role": "user", "content": "a\x00b<|im_end|>"}], None),
        ([], "messages"),
        ("hi", "messages"),
        ([[]], "messages[0]"),
        ([{}], "messages[0].role"),
        ([{"role": "robot", "content": "hi"}], "messages[0].role"),
        ([USER, {"role": "user"}], "messages[1].content"),
        ([USER, {"role": "user", "content": 7}], "messages[1].content"),
        ([USER, {"role": "user", "content": [7]}], "messages[1].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"text": "hi"}]}], "messages[0].content[0].type"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages[0].content[0].type",
        ),
        ([USER, {"role": "assistant", "tool_calls": [7]}], "messages[1].tool_calls[0]"),
        ([USER, {"role": "assistant", "tool_calls": [10**30]}], "messages[1].tool_calls[0]"),
    ],
)
def test_messages(server: Server, messages: Any, param: str | None) -> None:
    response = server.post(CHAT, asking(messages=messages, max_tokens=1))
    if param is None:
        assert response.status_code == 200, response.text
    else:
        check_error(response, 400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {}}]}, "tools"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 0}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 5}}, "logit_bias"),
        ({"logit_bias": {str(10**30): 5}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "messages"),
    ],
)
def test_what_cannot_be_done_is_said(server: Server, fields: Any, param: str) -> None:
    check_error(server.post(CHAT, asking(**fields)), 400, param)
    check_error(server.post(CHAT, asking(**fields, stream=True)), 400, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "none"},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"logprobs": False, "n": 1},
        {"user": "me", "metadata": {"a": 1}, "store": True, "unknown": [[[]]]},
        {"logit_bias": {}},
        {"stop": []},
        {"top_k": -1},
    ],
)
def test_what_asks_for_nothing_special_is_fine(server: Server, fields: Any) -> None:
    assert server.chat(**fields, max_tokens=1).status_code == 200


def test_logit_bias_forbids_and_forces_a_token(server: Server) -> None:
    forced = server.chat(logit_bias={"33": 100}).json()["choices"][0]["message"]["content"]
    assert len(forced) == 4 and len(set(forced)) == 1
    forbidden = server.chat(logit_bias={"33": -100}).json()["choices"][0]["message"]["content"]
    assert forced[0] not in forbidden


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([[]], "prompt"),
        ([-1], "prompt"),
        ([10**6], "prompt"),
        ([10**30], "prompt"),
        ([1.5], "prompt"),
        ([True], "prompt"),
        (["a", 1], "prompt"),
        (["a", ""], "prompt"),
        (["a"] * 17, "prompt"),
        (7, "prompt"),
        (None, "prompt"),
        ("word " * 3000, "prompt"),
        (["a", "word " * 3000, "b"], "prompt"),
        ([1] * 2048, "prompt"),
    ],
)
def test_prompts_that_are_none(server: Server, prompt: Any, param: str) -> None:
    check_error(server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1}), 400, param)


@pytest.mark.parametrize("count", [2048, 2049, 100_000])
def test_a_prompt_that_is_too_long_is_told_both_numbers(server: Server, count: int) -> None:
    response = server.post("/v1/completions", {"prompt": [33] * count, "max_tokens": 5})
    error = check_error(response, 400, "prompt")
    assert error["code"] == "context_length_exceeded"
    assert f"{count} tokens" in error["message"] and "2048" in error["message"]


def test_a_long_conversation_is_told_both_numbers(server: Server) -> None:
    for length in (3000, 100_000):
        error = check_error(server.chat("word " * length), 400, "messages")
        assert error["code"] == "context_length_exceeded"
        assert "2048" in error["message"]


HI = b'{"messages": [{"role": "user", "content": "%s"}], "max_tokens": 1}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"messages": [{"role": "user", "content": "hi"}]',
        b"{'messages': []}",
        HI % b"hi" + b" x",
        HI % b"\\ud83d",
        HI % b"\\ude00",
        HI % b"\xff",
        HI % b"\xc0\x80",
        HI % b"\xed\xa0\x80",
        HI % b"\xf4\x90\x80\x80",
        (HI % b"hi").replace(b"{", b'{"unknown": "\xff", ', 1),
        b"\xef\xbb\xbf" + HI % b"hi",
        (HI % b"hi").decode().encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        (HI % b"hi").replace(b"{", b'{"unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b",", 1),
        (HI % b"hi").replace(b"1}", b"9" * 5000 + b"}"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_bodies_that_are_no_request(server: Server, path: str, body: bytes) -> None:
    error = check_error(server.post(path, body), 400)
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 500


def test_duplicate_keys_and_escapes_are_read(server: Server) -> None:
    body = (HI % b"\\ud83d\\ude00\\u0000").replace(b"{", b'{"max_tokens": 5,', 1)
    assert server.post(CHAT, body).json()["usage"]["completion_tokens"] == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(
    st.dictionaries(st.sampled_from([*FIELDS, "prompt", "echo", "suffix"]), json_values, max_size=4)
)
def test_random_fields_never_break_it(server: Server, fields: dict[str, Any]) -> None:
    body = {"messages": [USER], "prompt": "1, 2,"} | fields
    if not isinstance(body.get("max_tokens"), str | list | dict):
        body["max_tokens"] = 1
    body.pop("max_completion_tokens", None)
    for path in (CHAT, "/v1/completions"):
        response = send(server, json.dumps(body), path)
        assert response.status_code in (200, 400, 404), response.text
        if response.status_code != 200:
            check_error(response, response.status_code)


@FUZZ
@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 20))
def test_damaged_json_never_breaks_it(server: Server, junk: bytes, at: int, cut: int) -> None:
    whole = json.dumps(asking(max_tokens=1)).encode()
    response = server.post(CHAT, whole[:at] + junk + whole[at + cut :])
    assert response.status_code in (200, 400, 404), response.text


@FUZZ
@given(st.binary(max_size=40))
def test_random_paths_never_break_it(server: Server, path: bytes) -> None:
    response = server.client.get(server.url + "/v1/" + quote(path, safe="/:%?"))
    assert response.status_code in (200, 307, 403, 404, 405), response.text


def test_afterwards_it_still_answers(server: Server) -> None:
    server.wait_idle(20)
    assert server.meta()["restarts"] == 0
    assert server.chat().json()["usage"]["completion_tokens"] == 4
    assert "Traceback" not in server.log


def test_llama_servers_name_of_the_limit_counts_where_no_other_is_given(server: Server) -> None:
    def tokens(**fields: Any) -> int:
        body = asking("Tell a story.", logit_bias={"2": -100, "0": -100}, **fields)
        return int(server.post(CHAT, body).json()["usage"]["completion_tokens"])

    assert tokens(max_tokens=None, n_predict=3) == 3
    assert tokens(max_tokens=None, n_predict=0) == 0
    assert tokens(max_tokens=5, n_predict=3) == 5
