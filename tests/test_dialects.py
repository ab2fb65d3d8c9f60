"""Thoughts and tool calls, taken from an answer's text as it comes."""

from __future__ import annotations

from portable.dialects.said import PLAIN, CallDelta, Said


def test_plain_text_is_content() -> None:
    assert PLAIN.push("a <tool_call>") == Said("a <tool_call>") and not PLAIN.finish()


def test_a_call_alone_says_something() -> None:
    assert Said(calls=(CallDelta(0, "call_1", "now"),)) and not Said()
