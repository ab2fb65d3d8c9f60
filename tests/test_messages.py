"""Anthropic's messages API: its events, blocks and errors; and the real client over a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from event_trees import USED, answers, events, streamed
from hypothesis import given
from hypothesis import strategies as st
from serving import Server, running, server

from portable.dialects.said import CallDelta, Said, joined
from portable.engine.sequence import Usage
from portable.errors import InvalidRequest
from portable.server.anthropic import MessageLayout
from portable.server.body import unread
from portable.server.layout import Answer
from portable.server.replies import anthropic_error
from portable.server.turns import as_chat
from portable.server.wire.messages import MessageRequest
from portable.server.wire.parse import parse

__all__ = ["server"]
PATH = "/v1/messages"
USER = {"role": "user", "content": "hi"}


def request(**fields: Any) -> MessageRequest:
    body = {"max_tokens": 7, "messages": [USER]} | fields
    return parse(json.dumps(body).encode(), MessageRequest)


def replay(told: list[Any]) -> list[Any]:
    """The content that the deltas alone make, checking that each block opens, grows and closes."""
    content: list[Any] = []
    is_open, arguments = False, ""
    for event in told:
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == len(content)
            content.append(event["content_block"])
            is_open, arguments = True, ""
            continue
        assert is_open and event["index"] == len(content) - 1
        block = content[-1]
        if event["type"] == "content_block_stop":
            is_open = False
            continue
        assert event["type"] == "content_block_delta"
        match event["delta"]:
            case {"type": "text_delta", "text": text}:
                block["text"] += text
            case {"type": "thinking_delta", "thinking": text}:
                block["thinking"] += text
            case {"type": "input_json_delta", "partial_json": text}:
                arguments += text
                block["arguments"] = arguments
            case {"type": "signature_delta", "signature": ""}:
                assert block["type"] == "thinking"
            case delta:
                raise AssertionError(delta)
    assert not is_open
    return content


def said_by(content: list[Any]) -> dict[str, str]:
    """All that each kind of block and each call says; calls by their ids."""
    found: dict[str, str] = {}
    for block in content:
        key = block.get("id", block["type"])
        text = block.get("text", "") + block.get("thinking", "") + block.get("arguments", "")
        found[key] = found.get(key, "") + text
    return {key: text for key, text in found.items() if text or key.startswith("call_")}


@given(answers(), st.sampled_from(["stop", "length"]))
def test_every_stream_is_a_well_formed_tree(said: list[Said], reason: str) -> None:
    start, ping, *middle, delta, stop = streamed(MessageLayout("m", 7), said, reason)
    assert (start["type"], ping) == ("message_start", {"type": "ping"})
    assert start["message"]["content"] == [] and start["message"]["stop_reason"] is None
    assert start["message"]["usage"]["input_tokens"] == 9
    assert stop == {"type": "message_stop"}
    calls = any(part.calls for part in said)
    expected = "max_tokens" if reason == "length" else "tool_use" if calls else "end_turn"
    assert delta["delta"] == {"stop_reason": expected, "stop_sequence": None}
    assert (delta["usage"]["input_tokens"], delta["usage"]["cache_read_input_tokens"]) == (5, 4)
    content = replay(middle)
    whole = joined(said)
    texts = {"text": whole.content, "thinking": whole.reasoning}
    texts |= {call.id or "": call.arguments for call in whole.calls}
    told = {key: text for key, text in texts.items() if text or key.startswith("call_")}
    assert said_by(content) == told
    assert content


@given(answers())
def test_whole_or_streamed_a_message_says_the_same(said: list[Said]) -> None:
    body = MessageLayout("m", 7).body([Answer(joined(said), "stop", USED, [])])
    start, _, *middle, delta, _ = streamed(MessageLayout("m", 7), said)
    assert set(body) == set(start["message"])
    assert (body["stop_reason"], body["usage"]) == (delta["delta"]["stop_reason"], delta["usage"])
    own = {key: text for key, text in said_by(body["content"]).items() if text}
    assert own == {k: v for k, v in said_by(replay(middle)).items() if not k.startswith("call_")}


def test_a_call_has_its_arguments_as_an_object_or_none_where_it_was_cut() -> None:
    def told(arguments: str) -> Any:
        calls = (CallDelta(0, "call_0", "now", arguments),)
        body = MessageLayout("m", 7).body([Answer(Said(calls=calls), "stop", USED, [])])
        return body["content"][0]

    assert told('{"zone": "UTC"}') == {
        **{"type": "tool_use", "id": "call_0", "name": "now"},
        "input": {"zone": "UTC"},
    }
    assert told('{"zone": ')["input"] == {}


def test_an_answer_that_fills_the_context_says_so() -> None:
    answer = Answer(Said("a"), "length", Usage(9, 0, 3), [])
    body = MessageLayout("m", 7).body([answer])
    assert body["stop_reason"] == "model_context_window_exceeded"


def test_an_error_in_a_stream_is_an_event() -> None:
    made = MessageLayout("m", 7)
    told = events(b"".join([*made.begin(1, None), *made.failure("backend_error", "it died")]))
    assert told[-1] == {"type": "error", "error": {"type": "api_error", "message": "it died"}}


def test_a_turn_of_thoughts_calls_and_results() -> None:
    turns = [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "c0", "name": "f", "input": {"a": "é"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Here:", "cache_control": {"type": "ephemeral"}},
                {"type": "tool_result", "tool_use_id": "c0", "content": "7"},
                {
                    **{"type": "tool_result", "tool_use_id": "c1", "is_error": True},
                    "content": [{"type": "text", "text": "no such file"}],
                },
            ],
        },
    ]
    found = as_chat(request(messages=turns, system=[{"type": "text", "text": "Be kind."}])).messages
    assert [m.role for m in found] == ["system", "user", "assistant", "tool", "tool", "user"]
    call = found[2].tool_calls and found[2].tool_calls[0]
    assert (found[2].reasoning_content, found[2].content) == ("hm", "Let me look.")
    assert call and (call.id, call.function.name) == ("c0", "f")
    assert json.loads(call.function.arguments) == {"a": "é"}
    assert [(m.tool_call_id, m.content) for m in found[3:]] == [
        ("c0", "7"),
        ("c1", "Error: no such file"),
        (None, "Here:"),
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"temperature": 1.5}, "temperature"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                **{"type": "tool_result", "tool_use_id": "c"},
                                "content": [{"type": "document"}],
                            }
                        ],
                    }
                ]
            },
            "messages[0].content[0].content[0].type",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "search"}]}, "tools[0].input_schema"),
    ],
)
def test_what_cannot_be_done_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        as_chat(request(**fields))
    assert error.value.param == param and error.value.message.startswith(
        param.removesuffix(".type")
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_each_status_has_its_type(status: int, kind: str) -> None:
    body = anthropic_error("so", status=status)
    assert body == {"type": "error", "error": {"type": kind, "message": "so"}}


def check_error(response: Any, status: int, kind: str) -> str:
    body = response.json()
    assert response.status_code == status and set(body) == {"type", "error"}, response.text
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    return str(body["error"]["message"])


def test_errors_of_every_layer_have_this_apis_shape(server: Server) -> None:
    small = {"max_tokens": 1, "messages": [USER]}
    check_error(server.post(PATH, b"{"), 400, "invalid_request_error")
    check_error(server.post(PATH, small | {"model": "claude-x"}), 404, "not_found_error")
    check_error(server.post(PATH, b" " * (1 << 20) + b"{}"), 413, "request_too_large")
    check_error(server.get(PATH), 405, "invalid_request_error")
    check_error(server.post(PATH + "/nix", small), 404, "not_found_error")
    host = {"Host": "evil.example"}
    check_error(server.post(PATH, small, headers=host), 403, "permission_error")
    long = small | {"messages": [{"role": "user", "content": "a " * 5000}]}
    assert "tokens" in check_error(server.post(PATH, long), 400, "invalid_request_error")


def test_the_key_comes_as_anthropics_client_sends_it_which_survives_pings() -> None:
    with running(api_keys=["secret"], keep_alive_seconds=0.01) as guarded:
        body = {"max_tokens": 2, "messages": [USER | {"content": "a " * 200}], "stream": True}
        check_error(guarded.post(PATH, body), 401, "authentication_error")
        headers = {"x-api-key": "secret", "anthropic-version": "2023-06-01"}
        told = events(guarded.post(PATH, body, headers=headers).content)
        assert {"type": "ping"} in told
        with anthropic.Anthropic(base_url=guarded.url, api_key="secret", max_retries=0) as client:
            body["messages"] = [USER | {"content": "b " * 200}]
            with client.messages.stream(
                model="smol",
                max_tokens=2,
                messages=body["messages"],
                extra_body={"temperature": 0},
            ) as it:
                assert it.get_final_message().usage.output_tokens == 2


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="EMPTY", max_retries=0) as made:
        yield made


SMALL: Any = {"model": "smol", "max_tokens": 8, "extra_body": {"temperature": 0, "top_k": 1}}


def test_the_client_gets_whole_messages_and_streams_of_the_same(
    client: anthropic.Anthropic,
) -> None:
    turns: Any = [{"role": "user", "content": "Say hi."}]
    whole = client.messages.create(messages=turns, **SMALL)
    (block,) = whole.content
    assert block.type == "text" and block.text
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 8)
    with client.messages.stream(messages=turns, **SMALL) as stream:
        assert "".join(stream.text_stream) == block.text
        last = stream.get_final_message()
    assert last.stop_reason == "max_tokens" and last.usage.output_tokens == 8
    used = last.usage
    total = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert used.input_tokens + (used.cache_read_input_tokens or 0) == total > 0


def test_the_stop_sequence_that_ended_it_is_told(client: anthropic.Anthropic) -> None:
    turns: Any = [{"role": "user", "content": "Say hi."}]
    stops = ["never", " here"]
    whole = client.messages.create(messages=turns, stop_sequences=stops, **SMALL)
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", " here")
    with client.messages.stream(messages=turns, stop_sequences=stops, **SMALL) as stream:
        last = stream.get_final_message()
    assert (last.stop_reason, last.stop_sequence) == ("stop_sequence", " here")


def test_a_schema_shapes_the_message(client: anthropic.Anthropic) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    shaped = SMALL | {"max_tokens": 60}
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    made = client.messages.create(messages=[USER], output_config=config, **shaped)
    (block,) = made.content
    assert block.type == "text" and isinstance(json.loads(block.text)["a"], int)
    assert made.stop_reason == "end_turn"
    with pytest.raises(anthropic.BadRequestError, match=r"output_config\.format\.schema"):
        config["format"]["schema"] = {"type": "nix"}
        client.messages.create(messages=[USER], output_config=config, **shaped)


SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}
ASKS: Any = {"role": "user", "content": "How is the weather in Paris?"}


def test_a_tool_is_called_and_its_result_read(client: anthropic.Anthropic) -> None:
    asked = SMALL | {"max_tokens": 60, "messages": [ASKS], "tools": [WEATHER]}
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        asked["tool_choice"] = {**choice, "disable_parallel_tool_use": True}
        called = client.messages.create(**asked)
        assert called.stop_reason == "tool_use"
        (block,) = called.content
        assert block.type == "tool_use" and block.name == "get_weather"
        assert block.input["city"] in ("Paris", "Rome")
    with client.messages.stream(**asked) as stream:
        (streamed_block,) = stream.get_final_message().content
    assert streamed_block.type == "tool_use" and streamed_block.input == block.input
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "Sunny"}
    turns: Any = [ASKS, called.to_param(), {"role": "user", "content": [result]}]
    answer = client.messages.create(messages=turns, **SMALL)
    assert answer.content[0].type == "text" and answer.content[0].text


def test_the_tokens_that_are_counted_are_those_that_are_read(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": "smol", "messages": [ASKS], "system": "Be kind."}
    alone = client.messages.count_tokens(**asked).input_tokens
    used = client.messages.create(max_tokens=1, **asked).usage
    assert alone == used.input_tokens + (used.cache_read_input_tokens or 0)
    assert client.messages.count_tokens(tools=[WEATHER], **asked).input_tokens > alone


def test_the_last_turn_is_gone_on_with_if_it_is_the_assistants(client: anthropic.Anthropic) -> None:
    turns: Any = [{"role": "user", "content": "Say hi."}]
    whole = client.messages.create(messages=turns, **SMALL).content[0]
    assert whole.type == "text"
    begun: Any = [*turns, {"role": "assistant", "content": whole.text[:5]}]
    rest = client.messages.create(messages=begun, **SMALL | {"max_tokens": 7}).content[0]
    assert rest.type == "text" and whole.text.startswith(whole.text[:5] + rest.text[:5])


def test_a_wrong_tool_is_named_by_its_place(server: Server) -> None:
    bad = {"name": "f", "input_schema": {"type": "nix"}}
    body = {"max_tokens": 8, "messages": [USER], "tools": [WEATHER, bad]}
    said = check_error(
        server.post(PATH, body | {"tool_choice": {"type": "any"}}), 400, "invalid_request_error"
    )
    assert said.startswith("tools[1].input_schema")


def test_what_changes_nothing_is_known_to_strict_servers() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    blocks = [{"type": "text", "text": "a"} | cached]
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    body = {
        **{"max_tokens": 1, "system": blocks, "tools": [WEATHER | cached]},
        **{"messages": [{"role": "assistant", "content": [thought, *blocks]}], "metadata": {}},
    }
    assert list(unread(body, request(**body))) == []
    assert list(unread(body | {"nix": 1}, request(**body))) == ["nix"]
