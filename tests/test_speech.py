"""What a conversation becomes for one model: messages, options, grammar, tokens shown, a reader."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from portable.dialects.choose import BY_NAME
from portable.dialects.said import PLAIN, Said
from portable.dialects.toolbox import Toolbox
from portable.engine.sequence import Grammar, SamplingParams
from portable.errors import InvalidRequest
from portable.server.conversation import conversation
from portable.server.speech import Speech
from portable.server.wanted import Conversation
from portable.server.wire.chat import ChatRequest
from portable.server.wire.parse import parse

NOW = {"type": "function", "function": {"name": "now"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"a": "é"}'}}
HISTORY = [
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Noon."},
    {"role": "tool", "tool_call_id": "call_1", "content": "Or so."},
]


def asked(**fields: Any) -> Conversation:
    body = {"messages": HISTORY, "tools": [NOW]} | fields
    return conversation(parse(json.dumps(body).encode(), ChatRequest))


def speech(dialect: str, template: str = "") -> Speech:
    return Speech(template, BY_NAME[dialect])


def shown(dialect: str, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    command = speech(dialect).command("x", SamplingParams(), asked(**fields))
    return command.messages or [], command.options


def test_templates_get_arguments_as_objects() -> None:
    messages, options = shown("hermes")
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": "é"}
    assert messages[1]["content"] == "" and messages[1]["reasoning_content"] == "Hm."
    assert options["tools"][0]["function"]["parameters"]["type"] == "object"
    bad = json.loads(json.dumps(HISTORY).replace('\\"a\\"', "a"))
    messages, _ = shown("hermes", messages=bad)
    assert isinstance(messages[1]["tool_calls"][0]["function"]["arguments"], str)


def test_templates_without_tools_get_text_alone() -> None:
    messages, options = shown("generic")
    assert [m["role"] for m in messages] == ["user", "assistant", "user"] and not options
    assert "When?" in messages[0]["content"] and '"name": "now"' in messages[0]["content"]
    assert '<tool_call>\n{"name": "now", "arguments": {"a": "é"}}' in messages[1]["content"]
    assert messages[2]["content"].count("<tool_response>") == 2
    system = [{"role": "system", "content": "Be kind."}, HISTORY[0]]
    messages, _ = shown("generic", messages=system)
    assert messages[0]["content"].startswith("Be kind.\n\n# Tools") and len(messages) == 2
    messages, _ = shown("generic", messages=system, tool_choice="none")
    assert [m["content"] for m in messages] == ["Be kind.", "When?"]


def test_mistrals_ids_have_nine_letters_or_digits() -> None:
    messages, _ = shown("mistral")
    (call,) = messages[1]["tool_calls"]
    assert len(call["id"]) == 9 and call["id"].isalnum()
    assert messages[2]["tool_call_id"] == call["id"]


def test_phi4_reads_tools_in_the_system_message() -> None:
    messages, options = shown("phi4")
    assert json.loads(messages[0]["tools"])[0]["name"] == "now" and not options
    assert '<|tool_call|>[{"name": "now"' in messages[2]["content"]


def test_harmony_has_its_own_name_for_thoughts() -> None:
    messages, options = shown("harmony")
    assert messages[1]["thinking"] == "Hm." and "reasoning_content" not in messages[1]
    assert options["tools"][0]["function"]["description"] == ""


def test_control_tokens_are_shown_to_who_reads_them() -> None:
    tools = speech("mistral").command("x", SamplingParams(), asked())
    assert tools.params.shown == ("[TOOL_CALLS]",)
    none = speech("mistral").command("x", SamplingParams(), asked(tool_choice="none"))
    assert none.params.shown == () and none.params.thinking is None
    assert speech("mistral").reader(asked(tool_choice="none")) is PLAIN
    text = "<|channel|>analysis<|message|>Hm.<|end|><|channel|>final<|message|>So"
    bare = speech("harmony")
    assert "<|end|>" in bare.command("x", SamplingParams(), asked(tools=None)).params.shown
    assert bare.reader(asked(tools=None)).push(text).reasoning == "Hm."
    assert bare.reader(asked(tools=None, reasoning_format="none")).push(text) == Said(text)


def test_thoughts_have_tags_and_a_budget() -> None:
    thinks = Speech('{{ tools }}<tool_call>"name"<think></think>')
    command = thinks.command("x", SamplingParams(), asked(thinking_budget_tokens=7))
    assert command.params.thinking and command.params.thinking.budget == 7
    assert command.params.shown == ("<think>", "</think>")


def test_an_invented_result_ends_the_answer() -> None:
    said = SamplingParams(stop=("x",))
    assert speech("glm4").command("x", said, asked()).params.stop == ("x", "<|observation|>")
    assert speech("glm4").command("x", said, asked(tools=None)).params.stop == ("x",)


def test_two_shapes_are_one_too_many() -> None:
    shape = SamplingParams(grammar=Grammar("json_schema", "{}", "response_format"))
    regex = SamplingParams(grammar=Grammar("regex", "a", "structured_outputs.regex"))
    with pytest.raises(InvalidRequest, match="required"):
        speech("hermes").command("x", shape, asked(tool_choice="required"))
    with pytest.raises(InvalidRequest, match="JSON schema"):
        speech("hermes").command("x", regex, asked())
    either = speech("hermes").command("x", shape, asked()).params.grammar
    assert either and either.kind == "lark" and "other" in either.text
    plain = replace(asked(), tools=Toolbox([NOW], "none"))
    assert speech("hermes").command("x", regex, plain).params.grammar is regex.grammar
