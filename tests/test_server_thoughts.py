"""Thoughts over HTTP, from a tiny random model whose template opens them in the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from checkpoints import tiny
from serving import CHAT, Server, asking, check_error, events, running
from tiny_tokenizers import edit_json

from convert import Options, convert

TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    "\n{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{%- if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{%- endif %}"
    "{%- endif %}{#- ends with </think> #}"
)
# Nothing that this model says means anything, or ends by itself.
ASK = asking("Why?", max_tokens=60, logit_bias={"0": -100, "2": -100})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tiny(tmp_path_factory.mktemp("thinks") / "thinks", "qwen3")
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(chat_template=TEMPLATE))
    model = convert(folder, folder / "thinks.gguf", Options(quant="F32")).path
    with running(engine={"model": str(model), "context": 512}) as made:
        yield made


def message(server: Server, **fields: Any) -> dict[str, Any]:
    reply = server.post(CHAT, ASK | fields)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["choices"][0]["message"]
    return found


def test_what_is_thought_is_no_content(server: Server) -> None:
    said = message(server)
    assert said["content"] == "" and said["reasoning_content"] == said["reasoning"] != ""


def test_a_budget_ends_the_thought(server: Server) -> None:
    long = message(server)["reasoning_content"]
    said = message(server, thinking_budget_tokens=12)
    assert said["content"] and said["reasoning_content"] in long
    assert message(server, thinking_budget_tokens=-1)["reasoning_content"] == long
    none = message(server, thinking_budget_tokens=0)
    assert none["content"] and "reasoning_content" not in none


def test_thoughts_stream_by_both_names(server: Server) -> None:
    whole = message(server, thinking_budget_tokens=12)
    chunks = events(server.post(CHAT, ASK | {"thinking_budget_tokens": 12, "stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    for name in ("reasoning_content", "reasoning"):
        assert "".join(delta.get(name, "") for delta in deltas) == whole["reasoning_content"]
    assert "".join(delta["content"] for delta in deltas) == whole["content"]


def test_without_a_format_thoughts_stay_in_the_content(server: Server) -> None:
    apart = message(server, thinking_budget_tokens=12)
    said = message(server, thinking_budget_tokens=12, reasoning_format="none")
    assert "reasoning_content" not in said
    assert said["content"].startswith("<think>") and "</think>" in said["content"]
    assert said["content"].endswith(apart["content"].rstrip())


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none"},
    ],
)
def test_thinking_can_be_switched_off(server: Server, fields: dict[str, Any]) -> None:
    said = message(server, **fields)
    assert said["content"] and "reasoning_content" not in said


def test_a_shape_holds_for_what_follows_the_thought(server: Server) -> None:
    format = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    said = message(server, thinking_budget_tokens=9, response_format=format)
    assert json.loads(said["content"]) in ("yes", "no") and said["reasoning_content"]


def test_a_call_is_forced_behind_the_thought(server: Server) -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    said = message(
        server,
        thinking_budget_tokens=9,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
    )
    (call,) = said["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": "{}"} and said["reasoning_content"]


def test_a_thought_can_be_gone_on_with(server: Server) -> None:
    begun = [*ASK["messages"], {"role": "assistant", "reasoning_content": "Because", "content": ""}]
    said = message(server, messages=begun, thinking_budget_tokens=30)
    assert said["reasoning_content"] and said["content"]
    begun[-1] = {"role": "assistant", "content": "So"}
    assert "reasoning_content" not in message(server, messages=begun)


def test_switches_are_no_words(server: Server) -> None:
    check_error(server.post(CHAT, ASK | {"enable_thinking": "false"}), 400, "enable_thinking")
