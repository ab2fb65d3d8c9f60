"""Answers that follow a grammar: masks on the fake backend, and the real model over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from fakes import END, FakeBackend, make_engine, run
from serving import Server, check_error, events, server, text_of

from portable.engine.grammar import Constraint, Grammars
from portable.engine.sequence import Grammar, SamplingParams
from portable.errors import EngineError, InvalidRequest

__all__ = ["server"]

BACKEND = FakeBackend()
GRAMMARS = Grammars(BACKEND)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def allowed(constraint: Constraint) -> set[int]:
    return set(np.flatnonzero(np.isfinite(constraint.masked(np.zeros(257, np.float32)))).tolist())


@pytest.mark.parametrize(
    ("kind", "source", "first"),
    [
        ("regex", "[ab]c", b"ab"),
        ("lark", 'start: "yes" | "no"', b"yn"),
        ("gbnf", 'root ::= "yes" | "no"', b"yn"),
        ("json_schema", '{"enum": ["on", 1]}', b'"1'),
        ("json_schema", '{"type": "boolean"}', b"tf"),
    ],
)
def test_a_mask_allows_what_can_come_next(kind: Any, source: str, first: bytes) -> None:
    assert allowed(GRAMMARS.compile(Grammar(kind, source))) == set(first)


def test_the_end_is_allowed_where_the_grammar_may_end() -> None:
    constraint = GRAMMARS.compile(Grammar("regex", "ab*"))
    constraint.accept(ord("a"))
    assert allowed(constraint) == {ord("b"), END} and not constraint.finished
    constraint = GRAMMARS.compile(Grammar("regex", "ab"))
    for byte in b"ab":
        assert not constraint.finished
        constraint.accept(byte)
    assert constraint.finished


def test_control_tokens_are_named_by_rules() -> None:
    """As the tokens that they are, or as text where the model has none of that name."""
    source = Grammar("lark", 'start: control_1 "a" control_0', control=("<end>", "[x]"))
    constraint = GRAMMARS.compile(source)
    for byte in b"[x]a":
        assert allowed(constraint) == {byte}
        constraint.accept(byte)
    assert allowed(constraint) == {END}


def test_an_error_names_the_field_that_the_line_came_from() -> None:
    source = Grammar("lark", 'start: a\na: %json {"type": 7}', "first", places=("first", "second"))
    with pytest.raises(InvalidRequest) as caught:
        GRAMMARS.compile(source)
    assert caught.value.param == "second" and "start" not in str(caught.value)


def test_the_answer_ends_with_its_grammar() -> None:
    backend = FakeBackend(answer=lambda prompt: b"yes, of course")
    engine = make_engine(backend)
    constraint = GRAMMARS.compile(Grammar("regex", "yes|no"))
    engine.add("a", list(b"x>"), SamplingParams(temperature=0), constraint)
    deltas = run(engine)["a"]
    assert "".join(delta.text for delta in deltas) == "yes"
    assert deltas[-1].finish_reason == "stop"


def test_penalties_and_bias_cannot_undo_a_grammar() -> None:
    backend = FakeBackend(answer=lambda prompt: b"aaaa")
    engine = make_engine(backend)
    params = SamplingParams(temperature=0, logit_bias={ord("z"): 100}, frequency_penalty=2)
    engine.add("a", list(b"x>"), params, GRAMMARS.compile(Grammar("regex", "[ab]{3}")))
    assert set("".join(delta.text for delta in run(engine)["a"])) <= set("ab")


def test_blanks_in_json_come_to_an_end() -> None:
    constraint = GRAMMARS.compile(Grammar("json_schema", '{"type": "object"}'))
    constraint.accept(ord("{"))
    for _ in range(20):
        constraint.accept(ord(" "))
    assert ord(" ") not in allowed(constraint)


@pytest.mark.parametrize(
    ("kind", "source", "says"),
    [
        ("json_schema", "[1]", "is an object"),
        ("json_schema", "{", "column 2"),
        ("json_schema", '{"type": "strin"}', "strin"),
        ("json_schema", '{"$ref": "#/nope"}', "/nope"),
        ("json_schema", '{"not": {}}', "not"),
        ("regex", "[a-z]+(", "unclosed group"),
        ("regex", "(?<=a)b", "look-behind"),
        ("lark", 'start: "a" (', "1(13)"),
        ("lark", "start: nope", "nope"),
        ("gbnf", "root ::= (", "line 1"),
        ("gbnf", "root ::= nope", "nope"),
        ("gbnf", "root ::= root", "no answer"),
        ("json_schema", '{"$ref": "#"}', "no answer"),
        ("regex", r"[^\s\S]", "no answer"),
        ("regex", "a" * 300_000, "bytes"),
    ],
)
def test_a_bad_grammar_is_refused_at_its_place(kind: Any, source: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GRAMMARS.compile(Grammar(kind, source, "field"))
    assert says in str(caught.value) and caught.value.param == "field"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(a|b|ab){1,3000}c"),
        ("regex", "((.{0,200}x){0,200}y){0,200}"),
        ("json_schema", '{"type": "string", "minLength": 1000000000}'),
        ("json_schema", '{"type": "array", "minItems": 100000000}'),
        ("json_schema", '{"type": "string", "pattern": "(a{1,5000}){1,5000}"}'),
        ("json_schema", "[" * 5000),
        ("json_schema", json.dumps({"enum": [f"{'x' * 200}{i}" for i in range(1000)]})),
        ("lark", "start: a\na: a a | a a a | \n"),
        ("lark", 'start: x*\nx: y*\ny: z*\nz: "a"*'),
    ],
)
def test_a_hostile_grammar_costs_little(kind: Any, source: str) -> None:
    started = time.process_time()
    try:
        constraint = GRAMMARS.compile(Grammar(kind, source))
        for _ in range(20):
            constraint.accept(min(allowed(constraint)))
            if constraint.finished:
                break
    except (InvalidRequest, EngineError):
        pass
    assert time.process_time() - started < 20  # an endless one would be ended by the test's limit


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}}},
        {"response_format": {"type": "json_object", "schema": PERSON}},
        {"json_schema": PERSON},
        {"structured_outputs": {"json": PERSON}},
        {"structured_outputs": {"json": json.dumps(PERSON)}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_schema_shapes_the_answer(server: Server, fields: Any) -> None:
    reply = server.chat("Describe Ann, who is 30.", **fields, max_tokens=100).json()
    made = json.loads(reply["choices"][0]["message"]["content"])
    assert set(made) == {"name", "age"} and type(made["age"]) is int
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"grammar": 'root ::= "yes" | "no"'}, {"yes", "no"}),
        ({"grammar": 'start: "yes" | "no"'}, {"yes", "no"}),
        ({"structured_outputs": {"choice": ['a "b"', "好"]}}, {'a "b"', "好"}),
        ({"structured_outputs": {"regex": "[0-9]"}}, set("0123456789")),
        ({"structured_outputs": {"grammar": 'root ::= "x"'}}, {"x"}),
    ],
)
def test_grammars_of_every_kind(server: Server, fields: Any, answers: set[str]) -> None:
    for temperature in (0, 1.5):
        reply = server.chat("Are you there?", **fields, temperature=temperature).json()
        assert reply["choices"][0]["message"]["content"] in answers


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"grammar": "root ::= ("}, "grammar"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"json_schema": {"type": "nope"}}, "json_schema"),
        ({"json_schema": {}, "grammar": 'root ::= "x"'}, "grammar"),
    ],
)
def test_a_bad_grammar_is_a_400(server: Server, fields: Any, param: str) -> None:
    for stream in (False, True):
        check_error(server.chat("hi", **fields, stream=stream), 400, param)


def test_a_stream_follows_its_schema(server: Server) -> None:
    chunks = events(server.chat("Describe Ann.", json_schema=PERSON, stream=True, max_tokens=100))
    assert set(json.loads(text_of(chunks))) == {"name", "age"}
