"""The Responses API: its events, its items, what is kept; and the real client over a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from event_trees import USED, answers, events, streamed
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from serving import Server, check_error, server

from portable.dialects.said import CallDelta, Said, joined
from portable.errors import InvalidRequest
from portable.server.api.responses import read
from portable.server.body import unread
from portable.server.items import as_chat
from portable.server.kept import Kept, ResponseStore
from portable.server.layout import Answer
from portable.server.responses import ResponseLayout
from portable.server.wire.parse import parse
from portable.server.wire.responses import Item, ResponseRequest

__all__ = ["server"]
PATH = "/v1/responses"
HI = Item(role="user", content="hi")


def request(**fields: Any) -> ResponseRequest:
    return parse(json.dumps({"input": "hi"} | fields).encode(), ResponseRequest)


def layout(**fields: Any) -> ResponseLayout:
    return ResponseLayout("m", request(**fields), lambda response: None)


def replay(told: list[Any]) -> list[Any]:
    """The output that the deltas alone make, checking that each item opens, grows and closes."""
    output: list[Any] = []
    open: dict[str, Any] | None = None
    for event in told:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert open is None and event["output_index"] == len(output)
            open = {"item": event["item"], "text": "", "part": False, "done": False}
            continue
        assert open is not None, event
        place = open["item"]["id"] if "item_id" in event else event["item"]["id"]
        assert place == open["item"]["id"] and event["output_index"] == len(output)
        if kind == "content_part.added":
            assert open["item"]["type"] != "function_call" and not open["part"]
            open["part"] = True
        elif kind.endswith(".delta"):
            assert not open["done"] and event["delta"]
            open["text"] += event["delta"]
        elif kind == "content_part.done":
            assert open["done"] and event["part"]["text"] == open["text"]
            open["part"] = False
        elif kind == "output_item.done":
            assert open["done"] and not open["part"]
            output.append(event["item"])
            open = None
        else:
            assert kind.endswith(".done")
            assert event.get("text", event.get("arguments")) == open["text"]
            open["done"] = True
    assert open is None
    return output


@given(answers(), st.sampled_from(["stop", "length"]))
def test_every_stream_is_a_well_formed_tree(said: list[Said], reason: str) -> None:
    told = streamed(layout(), said, reason)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    first, *_, last = told
    assert [event["type"] for event in told[:3]] == [
        "response.created",
        *["response.in_progress"] * 2,
    ]
    assert told[2]["portable"] == {"state": "reading"}
    assert first["response"]["output"] == [] and first["response"]["usage"] is None
    assert last["type"] == ("response.completed" if reason == "stop" else "response.incomplete")
    assert replay(told[3:-1]) == last["response"]["output"] != []
    assert last["response"]["usage"]["total_tokens"] == 16


@given(answers(), st.sampled_from(["stop", "length"]))
def test_whole_or_streamed_a_response_says_the_same(said: list[Said], reason: str) -> None:
    def plain(output: list[Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for item in output:
            text = item["arguments"] if "arguments" in item else item["content"][0]["text"]
            key = item.get("call_id", item["type"])
            found[key] = found.get(key, "") + text
        return {key: text for key, text in found.items() if text or key.startswith("call_")}

    last = streamed(layout(), said, reason)[-1]["response"]
    body = layout().body([Answer(joined(said), reason, USED, [])])
    assert plain(body["output"]) == plain(last["output"])
    assert set(body) == set(last)
    assert body["status"] == last["status"] == body["output"][-1]["status"]


def test_an_error_ends_the_stream_as_a_failed_response() -> None:
    made = layout()
    told = events(b"".join([*made.begin(1, None), *made.failure("backend_error", "it died")]))
    assert [event["type"] for event in told[-2:]] == ["error", "response.failed"]
    assert told[-2]["message"] == "it died" and told[-2]["code"] == "backend_error"
    assert told[-1]["response"]["error"] == {"code": "server_error", "message": "it died"}


def test_a_turn_of_thoughts_text_and_calls_is_one_message_again() -> None:
    said = [
        Said(reasoning="hm"),
        Said(content="Let me look."),
        Said(calls=(CallDelta(0, "c0", "f", "{}"), CallDelta(1, "c1", "g", '{"a": 1}'))),
    ]
    output = streamed(layout(), said)[-1]["response"]["output"]
    again = [{"role": "user", "content": "hi"}, *output]
    again += [{"type": "function_call_output", "call_id": "c0", "output": "7"}]
    found = as_chat(request(), read(request(input=again), ResponseStore())).messages
    assert [message.role for message in found] == ["user", "assistant", "tool"]
    assert (found[1].reasoning_content, found[1].content) == ("hm", "Let me look.")
    assert [call.function.name for call in found[1].tool_calls or []] == ["f", "g"]
    assert (found[2].tool_call_id, found[2].content) == ("c0", "7")


def test_instructions_join_the_system_messages_at_the_beginning() -> None:
    conversation = [Item(role="developer", content="Be kind."), HI]
    found = as_chat(request(instructions="Be short."), conversation).messages
    assert [(m.role, m.content) for m in found] == [
        ("system", "Be short.\n\nBe kind."),
        ("user", "hi"),
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0].id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"n": 2}, "n"),
    ],
)
def test_what_cannot_be_done_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        asked = request(**fields)
        as_chat(asked, read(asked, ResponseStore()))
    assert error.value.param == param and param.split("[")[0] in error.value.message


def kept(id: str, text: str = "") -> Kept:
    output = [{"id": f"msg_{id}", "type": "message", "role": "assistant", "content": text}]
    return Kept({"id": id, "output": output}, [HI, Item("message", f"msg_{id}", "assistant", text)])


def test_the_store_forgets_the_longest_unused_by_count() -> None:
    store = ResponseStore(max_count=2)
    store.put(kept("a"))
    store.put(kept("b"))
    assert store.get("a")
    store.put(kept("c"))
    assert [bool(store.get(id)) for id in "abc"] == [True, False, True]
    assert store.item("msg_a") == Item("message", "msg_a", "assistant", "")
    assert store.item("msg_b") is None


def test_the_store_is_bounded_in_bytes() -> None:
    store = ResponseStore(max_bytes=3000)
    for at in range(20):
        store.put(kept(str(at), "x" * 400))
    assert 1 <= sum(bool(store.get(str(at))) for at in range(20)) <= 3
    store.put(kept("large", "x" * 3000))
    assert store.get("large") is None and store.get("19")
    assert store.delete("19") and not store.delete("19")


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


SMALL: Any = {"model": "smol", "max_output_tokens": 8, "temperature": 0}


def test_the_client_streams_and_goes_on_from_a_kept_response(client: openai.OpenAI) -> None:
    first = client.responses.create(input="Say hi.", **SMALL)
    with client.responses.stream(input="Again.", previous_response_id=first.id, **SMALL) as stream:
        told = list(stream)
    last = told[-1]
    assert last.type == "response.incomplete"
    said = "".join(e.delta for e in told if e.type == "response.output_text.delta")
    assert last.response.output_text == said != ""
    items = [
        {"role": "user", "content": "Say hi."},
        *[item.to_dict() for item in first.output],
        {"role": "user", "content": "Again."},
    ]
    alone = client.responses.create(input=items, store=False, **SMALL)
    assert alone.output_text == said
    assert alone.usage and last.response.usage
    assert alone.usage.input_tokens == last.response.usage.input_tokens > 0
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(alone.id)


def test_the_client_retrieves_and_deletes(client: openai.OpenAI) -> None:
    made = client.responses.create(input="Say hi.", metadata={"a": "b"}, **SMALL)
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="not kept"):
            gone(made.id)


class Colour(BaseModel):
    name: str


def test_the_client_parses_what_a_schema_shapes(client: openai.OpenAI) -> None:
    fields = SMALL | {"max_output_tokens": 60}
    made = client.responses.parse(input="A colour?", text_format=Colour, **fields)
    assert isinstance(made.output_parsed, Colour)


def test_errors_name_the_field_by_its_own_name(server: Server) -> None:
    bad = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nix"}}}
    check_error(server.post(PATH, {"input": "a", "text": bad}), 400, "text.format.schema")
    check_error(server.post(PATH, {"input": "a", "temperature": 3}), 400, "temperature")
    check_error(server.post("/responses", {"input": "a " * 5000}), 400, "input")
    gone = server.post(PATH, {"input": "a", "previous_response_id": "resp_x"})
    error = check_error(gone, 404, "previous_response_id")
    assert error["code"] == "previous_response_not_found"


WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def test_a_function_is_called_and_its_output_read(client: openai.OpenAI) -> None:
    ask = "How is the weather in Paris?"
    asked = SMALL | {"input": ask, "max_output_tokens": 60, "tools": [WEATHER]}
    asked |= {"parallel_tool_calls": False}
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        called = client.responses.create(**asked, tool_choice=choice)
        (call,) = called.output
        assert call.type == "function_call" and call.name == "get_weather"
        assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    with client.responses.stream(**asked, tool_choice="required") as stream:
        told = list(stream)
        (same,) = stream.get_final_response().output
    kind = "response.function_call_arguments.delta"
    assert "".join(event.delta for event in told if event.type == kind) == call.arguments
    assert same.type == "function_call" and same.arguments == call.arguments
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    answer = client.responses.create(input=[output], previous_response_id=called.id, **SMALL)
    assert answer.output_text
    whole: Any = [{"role": "user", "content": ask}, {"id": call.id}, output]
    assert client.responses.create(input=whole, **SMALL).output_text == answer.output_text


def test_the_tokens_that_are_counted_are_those_that_are_read(client: openai.OpenAI) -> None:
    asked: Any = {"model": "smol", "input": "Say hi.", "instructions": "Be kind."}
    alone = client.responses.input_tokens.count(**asked).input_tokens
    used = client.responses.create(**asked, max_output_tokens=1).usage
    assert used and alone == used.input_tokens
    assert client.responses.input_tokens.count(**asked, tools=[WEATHER]).input_tokens > alone


def test_how_likely_the_tokens_were_comes_with_their_text(client: openai.OpenAI) -> None:
    asked: Any = {"input": "Say hi.", "include": ["message.output_text.logprobs"]}
    whole = client.responses.create(**asked, top_logprobs=2, **SMALL)
    assert whole.output[0].type == "message"
    part = whole.output[0].content[0]
    assert part.type == "output_text" and part.logprobs
    assert "".join(known.token for known in part.logprobs) == part.text
    assert {len(known.top_logprobs) for known in part.logprobs} == {2}
    with client.responses.stream(**asked, top_logprobs=2, **SMALL) as stream:
        told = [event for event in stream if event.type == "response.output_text.delta"]
    found = [known.logprob for event in told for known in event.logprobs]
    assert found == pytest.approx([known.logprob for known in part.logprobs], abs=1e-4)


@given(answers())
def test_what_a_response_says_is_known_to_strict_servers(said: list[Said]) -> None:
    output = streamed(layout(), said)[-1]["response"]["output"]
    body = {"input": output}
    assert list(unread(body, request(**body))) == []
