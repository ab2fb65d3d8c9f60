"""Thoughts before an answer: no grammar holds them, a budget ends them. Bytes are tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import FakeBackend, make_engine, run

from portable.engine.grammar import Grammars
from portable.engine.protocol import Begun
from portable.engine.sequence import Grammar, SamplingParams, Thinking
from portable.engine.thought import Thought, begin

TAGS = Thinking("[", "/t]")
GRAMMAR = Grammar("regex", "yes|no")


def answered(
    asked: Thinking, wanted: bytes, grammar: Grammar | None = GRAMMAR, prompt: bytes = b"x>"
) -> str:
    """The answer of a model that would write `wanted`."""
    backend = FakeBackend(answer=lambda prompt: wanted)
    answer = Grammars(backend).compile(grammar) if grammar else None
    engine = make_engine(backend)
    params = SamplingParams(temperature=0, thinking=asked, max_tokens=40)
    engine.add("a", list(prompt), params, Thought(asked, backend, answer))
    deltas = run(engine)["a"]
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize(
    ("asked", "wanted", "answer"),
    [
        (TAGS, b"[hm, no/t]yes!", "[hm, no/t]yes"),
        (TAGS, b"yes!", "yes"),
        (TAGS, b"no[hm/t]!", "no"),
        (replace(TAGS, opened=True), b"hm/t]no!", "[hm/t]no"),
        (replace(TAGS, opened=True, budget=0), b"/t]yes!", "[/t]yes"),
    ],
)
def test_a_grammar_holds_from_the_end_of_the_thought(
    asked: Thinking, wanted: bytes, answer: str
) -> None:
    assert answered(asked, wanted) == answer


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_closes_the_thought(budget: int, opened: bool) -> None:
    """The model goes on with what it would have written there."""
    asked = replace(TAGS, budget=budget, opened=opened)
    wanted = b"thoughts without an end" if opened else b"[thoughts without an end"
    text = answered(asked, wanted, grammar=None)
    assert text.startswith("[" + "thoughts"[:budget] + "/t]"), text


def test_a_short_thought_keeps_its_own_end() -> None:
    assert answered(replace(TAGS, budget=30), b"[hm/t]ok", grammar=None) == "[hm/t]ok"
    assert answered(replace(TAGS, budget=2), b" ok [no", grammar=None) == " ok [no"


def test_blanks_may_come_before_the_thought() -> None:
    assert answered(replace(TAGS, budget=1), b"\n[hm", grammar=None).startswith("\n[h/t]")


def test_a_shown_control_token_is_text() -> None:
    class Marked(FakeBackend):
        def piece(self, token: int) -> bytes:
            return b"" if token == ord("#") else super().piece(token)

    for shown, text in ((("#",), "a#b"), ((), "ab")):
        engine = make_engine(Marked(answer=lambda prompt: b"a#b"))
        engine.add("a", list(b"x>"), SamplingParams(temperature=0, shown=shown))
        assert "".join(delta.text for delta in run(engine)["a"]) == text


@pytest.mark.parametrize(
    ("prompt", "begun", "whole", "opened"),
    [
        ("ask>", None, "ask>", False),
        ("ask>[", None, "ask>[", True),
        ("ask>[/t]", None, "ask>[/t]", False),
        ("ask>", Begun("So"), "ask>So", False),
        ("ask>[", Begun("So"), "ask>[/t]\n\nSo", False),
        ("ask>[", Begun("", "Hm"), "ask>[Hm", True),
        ("ask>", Begun("", "Hm"), "ask>[Hm", True),
        ("ask>", Begun("So", "Hm"), "ask>[Hm/t]\n\nSo", False),
    ],
)
def test_an_answer_can_be_begun(prompt: str, begun: Begun | None, whole: str, opened: bool) -> None:
    tokens, asked = begin(list(prompt.encode()), TAGS, begun, FakeBackend())
    assert bytes(tokens).decode() == whole
    assert asked and asked.opened == opened
    tokens, asked = begin(list(b"ask>"), None, Begun("So"), FakeBackend())
    assert bytes(tokens) == b"ask>So" and asked is None
