"""Tools over HTTP: forced calls of a real model, told whole and as they come; prefill; budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel
from serving import CHAT, Server, asking, check_error, events, server, text_of

__all__ = ["server"]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "How the weather is",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 1, "maximum": 7},
                    "maxItems": 2,
                },
            },
            "required": ["city", "unit"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
SCHEMAS: dict[str, Any] = {
    "get_weather": WEATHER["function"]["parameters"],  # type: ignore[index]
    "now": {"type": "object", "maxProperties": 0},
}


def calling(text: str = "How is the weather in Paris?", **fields: Any) -> dict[str, Any]:
    body = asking(text, tools=TOOLS, tool_choice="required", max_tokens=120)
    return body | {"parallel_tool_calls": False} | fields


def check_calls(calls: list[dict[str, Any]]) -> None:
    assert calls
    for call in calls:
        assert call["type"] == "function" and call["id"].startswith("call_")
        jsonschema.validate(
            json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]]
        )


def joined(chunks: list[Any]) -> list[dict[str, Any]]:
    """Streamed calls put together as the openai client's documentation does it."""
    calls: list[dict[str, Any]] = []
    for chunk in chunks:
        for delta in chunk["choices"][0]["delta"].get("tool_calls", ()):
            if delta["index"] == len(calls):
                calls.append({k: v for k, v in delta.items() if k != "index"})
            else:
                assert "id" not in delta and "name" not in delta["function"]
                calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 1, "n": 2}]
)
def test_a_required_call_comes_and_fits_its_schema(server: Server, fields: dict[str, Any]) -> None:
    reply = server.post(CHAT, calling(**fields)).json()
    for choice in reply["choices"]:
        message = choice["message"]
        assert choice["finish_reason"] == "tool_calls" and message["content"] is None
        assert len(message["tool_calls"]) == 1
        check_calls(message["tool_calls"])


def test_a_streamed_call_is_the_same(server: Server) -> None:
    whole = server.post(CHAT, calling()).json()["choices"][0]["message"]["tool_calls"]
    chunks = events(server.post(CHAT, calling(stream=True)))
    calls = joined(chunks)
    check_calls(calls)
    assert [c["function"] for c in calls] == [c["function"] for c in whole]
    assert text_of(chunks) == "" and chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    deltas = [c for c in chunks if "tool_calls" in c["choices"][0]["delta"]]
    assert len(deltas) > 3, "the arguments come as they are written"


def test_several_calls_come_one_after_the_other(server: Server) -> None:
    """This small model would call for ever; what was cut off is told as far as it came."""
    for stream in (False, True):
        reply = server.post(CHAT, calling(parallel_tool_calls=None, stream=stream))
        if stream:
            calls, last = joined(events(reply)), events(reply)[-1]["choices"][0]
        else:
            last = reply.json()["choices"][0]
            calls = last["message"]["tool_calls"]
        assert len(calls) > 1 and last["finish_reason"] == "length"
        assert len({call["id"] for call in calls}) == len(calls)
        check_calls(calls[:-1])


def test_a_named_function_is_called(server: Server) -> None:
    for name in SCHEMAS:
        choice = {"type": "function", "function": {"name": name}}
        reply = server.post(CHAT, calling(tool_choice=choice)).json()
        calls = reply["choices"][0]["message"]["tool_calls"]
        assert [call["function"]["name"] for call in calls] == [name]
        check_calls(calls)


def test_only_allowed_tools_are_called(server: Server) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    reply = server.post(CHAT, calling(tool_choice=choice)).json()
    calls = reply["choices"][0]["message"]["tool_calls"]
    assert {call["function"]["name"] for call in calls} == {"now"}


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_without_a_call_the_answer_is_text(server: Server, choice: str | None) -> None:
    reply = server.post(CHAT, calling(tool_choice=choice, max_tokens=8)).json()["choices"][0]
    assert reply["message"]["content"] and reply["message"]["tool_calls"] is None
    assert reply["finish_reason"] in ("stop", "length")


def test_none_shows_no_tools_to_the_model(server: Server) -> None:
    plain, told, hidden = (
        server.post(CHAT, asking(tools=tools, tool_choice=choice)).json()["usage"]["prompt_tokens"]
        for tools, choice in ((None, None), (TOOLS, "auto"), (TOOLS, "none"))
    )
    assert plain == hidden < told


def test_a_conversation_with_results_goes_on(server: Server) -> None:
    arguments = json.dumps({"city": "北京 🌧", "unit": "celsius"}, ensure_ascii=False)
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": arguments},
    }
    messages = [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ]
    reply = server.post(CHAT, {"messages": messages, "tools": TOOLS, "max_tokens": 4})
    assert reply.status_code == 200, reply.text


def test_an_answer_is_a_call_or_fits_the_response_format(server: Server) -> None:
    format = {
        "type": "json_schema",
        "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
    }
    body = calling(tool_choice="auto", response_format=format, temperature=1, max_tokens=60)
    for seed in range(3):
        message = server.post(CHAT, body | {"seed": seed}).json()["choices"][0]["message"]
        if message["tool_calls"]:
            check_calls(message["tool_calls"])
        else:
            assert message["content"].startswith("{")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"tools": [NOW, NOW]}, "tools[1].function.name"),
        ({"tools": [NOW] * 129}, "tools"),
        ({"tools": None}, "tool_choice"),
        ({"tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        (
            {
                "tools": [
                    NOW,
                    {"type": "function", "function": {"name": "f", "parameters": {"type": 1}}},
                ]
            },
            "tools[1].function.parameters",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {"properties": {"q": {"type": "strnig"}}},
                        },
                    }
                ]
            },
            "tools[0].function.parameters",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "auto", "grammar": 'root ::= "a"'}, "grammar"),
        ({"enable_thinking": "false"}, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, "chat_template_kwargs"),
        ({"thinking_budget_tokens": -2}, "thinking_budget_tokens"),
        ({"reasoning_effort": "a lot"}, "reasoning_effort"),
        ({"reasoning_format": "xml"}, "reasoning_format"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ({"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_what_is_wrong_with_tools_is_named(
    server: Server, fields: dict[str, Any], param: str
) -> None:
    check_error(server.post(CHAT, calling(**fields)), 400, param)


def test_a_call_is_required_in_the_words_of_other_apis(server: Server) -> None:
    function = NOW["function"]
    flat = {"type": "function", **function}
    body = {"input": "What time is it?", "tools": [flat], "tool_choice": "required"}
    more = {"max_output_tokens": 60, "parallel_tool_calls": False}
    (item,) = server.post("/v1/responses", body | more).json()["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "now", "{}")
    choice = {"type": "tool", "name": "now"}
    tool = {"name": "now", "input_schema": {"type": "object", "properties": {}}}
    asked = asking("What time is it?", tools=[tool], tool_choice=choice, max_tokens=60)
    reply = server.post("/v1/messages", asked).json()
    (block,) = reply["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "now", {})
    assert reply["stop_reason"] == "tool_use"


class Weather(BaseModel):
    """How the weather is"""

    city: str
    unit: Literal["celsius", "fahrenheit"]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


ASK: Any = [{"role": "user", "content": "How is the weather in Paris?"}]


def test_the_openai_client_parses_calls(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Weather)
    tool["function"]["parameters"]["properties"]["city"]["maxLength"] = 10  # type: ignore[index]
    reply = client.chat.completions.parse(
        model="smol",
        messages=ASK,
        tools=[tool],
        tool_choice="required",
        max_tokens=120,
        parallel_tool_calls=False,
    )
    calls = reply.choices[0].message.tool_calls
    assert calls and isinstance(calls[0].function.parsed_arguments, Weather)


def test_the_openai_client_streams_calls(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="smol",
        messages=ASK,
        tools=TOOLS,
        tool_choice="required",
        max_tokens=120,  # type: ignore[arg-type]
        parallel_tool_calls=False,
    ) as stream:
        kinds = [event.type for event in stream]
        reply = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    assert reply.choices[0].finish_reason == "tool_calls"
    check_calls([call.model_dump() for call in reply.choices[0].message.tool_calls or ()])


BEGUN = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two, three"}]


def test_the_last_message_can_be_the_answers_beginning(server: Server) -> None:
    body = {"messages": BEGUN, "max_tokens": 8, "temperature": 0}
    first, other = (
        server.post(CHAT, body | more).json() for more in ({}, {"continue_final_message": True})
    )
    text = first["choices"][0]["message"]["content"]
    assert text == other["choices"][0]["message"]["content"]
    prompt = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nOne, two, three"
    )
    raw = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 8, "temperature": 0})
    assert text == raw.json()["choices"][0]["text"]
    new = server.post(CHAT, body | {"add_generation_prompt": True}).json()
    assert new["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    check_error(server.post(CHAT, {"messages": BEGUN[1:]}), 400, "messages")
