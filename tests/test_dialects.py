"""Thoughts and tool calls, taken from an answer's text as it comes; grammars that force calls."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterable
from typing import Any

import jsonschema
import numpy as np
import pytest
from fakes import END, FakeBackend
from hypothesis import given
from hypothesis import strategies as st

from portable.dialects.choose import BY_NAME, choose, dialect_named
from portable.dialects.dialect import Dialect
from portable.dialects.grammar import grammar
from portable.dialects.hermes import Hermes
from portable.dialects.said import PLAIN, CallDelta, Reader, Said, joined
from portable.dialects.schema import MAX_BYTES, check
from portable.dialects.think import KNOWN, Tags, Thoughts
from portable.dialects.toolbox import FirstCall, Toolbox
from portable.engine.grammar import Grammars
from portable.errors import InvalidRequest, UsageError

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "any": True,
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "at": {
            "type": "object",
            "properties": {"lat": {"type": "number"}, "tags": {"type": "array", "maxItems": 2}},
            "required": ["lat"],
        },
    },
    "required": ["city"],
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
NOW = {"type": "function", "function": {"name": "now", "description": "the time"}}
OFFERED = {"weather": PARAMETERS, "now": {}}

HERE = '{"city": "北京 🌧", "at": {"lat": 1.5e0, "tags": ["}\\"]", "\\\\"]}}'
THERE = '{"city": "x"}'

# What models write, and what it says: content, then names with arguments.
SAMPLES: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    (
        "hermes",
        f'Let me see.\n\n<tool_call>\n{{"name": "weather", "arguments": {HERE}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "Let me see.",
        [("weather", HERE), ("now", "{}")],
    ),
    (
        "hermes",  # the arguments first, as text, none; and no closing tag
        f'<tool_call>{{"arguments": {THERE}, "name": "weather", "id": 7}}</tool_call>'
        f'<tool_call>{{"name": "weather", "arguments": {json.dumps(THERE)}}}</tool_call>'
        '<tool_call>{"name": "now"}',
        "",
        [("weather", THERE), ("weather", THERE), ("now", "{}")],
    ),
    (
        "llama3",
        f'{{"name": "weather", "parameters": {HERE}}}',
        "",
        [("weather", HERE)],
    ),
    (
        "llama3",
        '<|python_tag|>{"type": "function", "name": "now", "parameters": {}}; '
        f'{{"name": "weather", "parameters": {THERE}}}',
        "",
        [("now", "{}"), ("weather", THERE)],
    ),
    (
        "llama3",
        'Say {"name": "now", "parameters": {}}',
        'Say {"name": "now", "parameters": {}}',
        [],
    ),
    (
        "mistral",
        f'[TOOL_CALLS][{{"name": "weather", "arguments": {HERE}, "id": "abcdefghi"}}, '
        '{"name": "now", "arguments": {}, "id": "123456789"}]',
        "",
        [("weather", HERE), ("now", "{}")],
    ),
    (
        "mistral-v11",
        f"Ok. [TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{HERE}[TOOL_CALLS]now[ARGS]{{}}",
        "Ok.",
        [("weather", HERE), ("now", "{}")],
    ),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        f"{HERE}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{{}}\n"
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        [("weather", HERE), ("now", "{}")],
    ),
    (
        "deepseek-v3.1",
        f"Hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{HERE}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Hm",
        [("weather", HERE), ("now", "{}")],
    ),
    (
        "phi4",
        f'<|tool_call|>[{{"name": "weather", "arguments": {HERE}}}, '
        '{"name": "now", "arguments": {}}]<|/tool_call|>',
        "",
        [("weather", HERE), ("now", "{}")],
    ),
    ("glm4", f"\nweather\n{HERE}", "", [("weather", HERE)]),
    ("glm4", "\nweather is fine\n{}", "\nweather is fine\n{}", []),
    (
        "qwen-xml",
        'Sure.\n<tool_call>\n<function=weather>\n<parameter=city>\n北京\n\n<b> "q"\n</parameter>\n'
        '<parameter=at>\n{"lat": 2}\n</parameter>\n<parameter=days>\nNone\n</parameter>\n'
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "Sure.",
        [
            ("weather", '{"city": "北京\\n\\n<b> \\"q\\"", "at": {"lat": 2}, "days": null}'),
            ("now", "{}"),
        ],
    ),
    (
        "harmony",
        "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.weather <|constrain|>json<|message|>{HERE}",
        "Let me see.",
        [("weather", HERE)],
    ),
    # What is no call is content, as it was written.
    *(
        (name, text, text, [])
        for name, text in [
            ("hermes", 'a \n<tool_call>{"name": "other", "arguments": {}}</tool_call> b'),
            ("hermes", '<tool_call>{"name": "now", "argum'),
            ("hermes", "<tool_call>{name: now}</tool_call>"),
            ("hermes", "a < b <tool <tool_cal"),
            ("hermes", '<tool_call>{"name": ["now"], "arguments": {}}'),
            ("llama3", '{"name": "Bob", "parameters": {}}'),
            ("mistral", "[TOOL_CALLS] none"),
            ("mistral-v11", "[TOOL_CALLS]now[ARGS]"),
            ("mistral-v11", "[TOOL_CALLS]weather[CALL_ID]abc"),
            (
                "deepseek",
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\nno",
            ),
            ("phi4", "<|tool_call|>none"),
            ("qwen-xml", "<tool_call>\n<function=other>\n</function>"),
        ]
    ),
]


def reader_of(name: str) -> Reader:
    return BY_NAME[name].reader(OFFERED)


def read(reader: Reader, pieces: Iterable[str]) -> Said:
    return joined([*(reader.push(piece) for piece in pieces), reader.finish()])


def calls_of(said: Said) -> list[tuple[str | None, str]]:
    assert all(call.id and call.id.startswith("call_") for call in said.calls)
    return [(call.name, call.arguments) for call in said.calls]


def cut(text: str, places: Iterable[int]) -> list[str]:
    at = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(at)]


@pytest.mark.parametrize(("name", "text", "content", "calls"), SAMPLES)
@given(places=st.lists(st.integers(0, 10_000), max_size=30))
def test_calls_are_read_however_the_text_is_cut(
    name: str, text: str, content: str, calls: list[tuple[str, str]], places: list[int]
) -> None:
    for pieces in (cut(text, places), list(text)):
        said = read(reader_of(name), pieces)
        assert (said.content, calls_of(said)) == (content, calls)


@pytest.mark.parametrize("name", BY_NAME)
@given(data=st.data())
def test_any_text_is_read_and_none_is_lost(name: str, data: st.DataObject) -> None:
    """Made of what the dialect looks for, in any order: the same however it is cut."""
    form = BY_NAME[name].form
    marks = [form.begin, form.middle, form.end, form.opening, form.closing, *BY_NAME[name].control]
    parts = st.sampled_from(
        [m for m in marks if m] + ["weather", "now", HERE, "{", "}", ", ", "\n"]
    )
    text = "".join(data.draw(st.lists(parts | st.text(max_size=3), max_size=12)))
    places = data.draw(st.lists(st.integers(0, 10_000), max_size=20))
    whole, cuts = read(reader_of(name), [text]), read(reader_of(name), cut(text, places))
    assert (whole.content, whole.reasoning) == (cuts.content, cuts.reasoning)
    assert calls_of(whole) == calls_of(cuts)
    if not whole.calls and name not in ("harmony", "glm4", "llama3"):
        assert whole.content == text


def test_arguments_come_before_they_are_complete() -> None:
    reader = Hermes(OFFERED)
    said = reader.push('<tool_call>{"name": "weather", "arguments": {"city": "Ber')
    assert said.calls[0].name == "weather" and said.calls[1] == CallDelta(
        0, arguments='{"city": "Ber'
    )
    assert reader.push("lin").calls == (CallDelta(0, arguments="lin"),)
    assert not reader.finish()


def test_content_is_held_back_only_while_it_may_become_a_marker() -> None:
    reader = Hermes(OFFERED)
    assert reader.push("a <tool").content == "a"
    assert reader.push("s>").content == " <tools>"
    assert reader.push("!").content == "!"


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 100_000,
        '{"' * 500_000,
        '<tool_call>{"' * 80_000,
        '<tool_call>{"name": "' * 50_000,
        '<tool_call>{"name": "now", "arguments": ' + '{"a": ' * 200_000,
        " " * 1_000_000,
        "<think>" + "x" * 1_000_000,
    ],
    ids=lambda text: text[:30],
)
@pytest.mark.parametrize("name", ["hermes", "llama3", "qwen-xml", "harmony"])
def test_a_megabyte_of_anything_is_read_in_linear_time(name: str, text: str) -> None:
    reader = Thoughts(reader_of(name), KNOWN[0])
    began = time.process_time()
    said = read(reader, [text[at : at + 1000] for at in range(0, len(text), 1000)])
    assert time.process_time() - began < 3
    assert said


def test_all_calls_but_the_first_can_be_left_out() -> None:
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    said = read(FirstCall(Hermes(OFFERED)), list(f"So {call}{call}"))
    assert (said.content, calls_of(said)) == ("So", [("now", "{}")])


def test_large_arguments_come_whole() -> None:
    arguments = json.dumps({"city": "长城" * 25_000}, ensure_ascii=False)
    text = f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>'
    said = read(Hermes(OFFERED), cut(text, range(0, len(text), 7)))
    assert calls_of(said) == [("weather", arguments)]


THINK = KNOWN[0]


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "count"),
    [
        ("<think>\nI see.\n</think>\n\nYes.", "I see.", "Yes.", 0),
        ("\n<think>I see.</think>Yes", "I see.", "Yes", 0),
        ("<think>\n\n</think>\n\nYes.", "", "Yes.", 0),
        ("<think>cut o", "cut o", "", 0),
        ("Yes <think>no</think>", "", "Yes <think>no</think>", 0),
        (
            '<think>call it</think>\n<tool_call>{"name": "now", "arguments": {}}</tool_call>',
            "call it",
            "",
            1,
        ),
    ],
)
@given(places=st.lists(st.integers(0, 100), max_size=10))
def test_thoughts_come_first(
    text: str, reasoning: str, content: str, count: int, places: list[int]
) -> None:
    said = read(Thoughts(Hermes(OFFERED), THINK), cut(text, places))
    assert (said.reasoning, said.content, len(said.calls)) == (reasoning, content, count)


def test_channels_are_thoughts_and_content() -> None:
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    )
    for pieces in ([text], list(text)):
        assert read(reader_of("harmony"), pieces) == Said("Yes", "Hm.")
    assert read(reader_of("harmony"), [text[:-10]]).content == ""


def test_plain_text_is_content() -> None:
    assert PLAIN.push("a <tool_call>") == Said("a <tool_call>") and not PLAIN.finish()


GRAMMARS = Grammars(FakeBackend())


def wander(source: Any, seed: int, most: int = 4000) -> str:
    """A random text that the grammar allows, one byte after the other, rather ending than not."""
    constraint, drawn, text = GRAMMARS.compile(source), random.Random(seed), bytearray()
    while not constraint.finished and len(text) < most:
        allowed = np.flatnonzero(np.isfinite(constraint.masked(np.zeros(257, np.float32))))
        if END in allowed:
            break
        plain = [byte for byte in allowed if byte in b'"}]abc ,019:{']
        byte = int(drawn.choice(plain or list(allowed)))
        text.append(byte)
        constraint.accept(byte)
    return text.decode()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("dialect", BY_NAME.values(), ids=BY_NAME)
def test_a_forced_answer_is_a_call_that_fits_its_schema(dialect: Dialect, several: bool) -> None:
    source = grammar(dialect, Toolbox([WEATHER, NOW], several=several))
    for seed in range(8):
        said = read(dialect.reader(OFFERED), [wander(source, seed)])
        assert not said.content and said.calls, said
        assert several or len(said.calls) == 1
        for call in said.calls:
            jsonschema.validate(json.loads(call.arguments), OFFERED[call.name or ""])


@pytest.mark.parametrize("dialect", BY_NAME.values(), ids=BY_NAME)
def test_models_own_calls_are_what_the_grammar_allows(dialect: Dialect) -> None:
    form = dialect.form
    arguments = THERE if dialect.name != "qwen-xml" else "<parameter=city>\nx\n</parameter>\n"
    call = f"{form.begin}weather{form.middle}{arguments}{form.end}"
    constraint = GRAMMARS.compile(grammar(dialect, Toolbox([NOW, WEATHER], several=False)))
    for byte in f"{form.opening}{call}{form.closing}".encode():
        constraint.accept(byte)
    assert constraint.finished


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"type": "strnig"}, "Invalid type"), ({"$ref": "#/$defs/none"}, "does not exist")],
)
def test_a_bad_schema_is_refused_by_the_name_of_its_tool(schema: Any, reason: str) -> None:
    bad = {"function": {"name": "bad", "parameters": {"properties": {"q": schema}}}}
    with pytest.raises(InvalidRequest, match=reason) as caught:
        GRAMMARS.compile(grammar(BY_NAME["hermes"], Toolbox([NOW, bad])))
    assert caught.value.param == "tools[1].function.parameters"
    assert "call:" not in str(caught.value), "our own grammar"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array"}, "an object"),
        ({"description": "x" * MAX_BYTES}, "bytes"),
        (json.loads('{"a":' * 40 + "1" + "}" * 40), "nested"),
    ],
)
def test_schemas_have_bounds(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        check(schema, "tools[0].function.parameters")
    assert (caught.value.param or "").startswith("tools[0].function.parameters")


@pytest.mark.parametrize(
    ("template", "name", "tags"),
    [
        ("{{ messages }}", "generic", None),
        ('{{ tools }}<tool_call>\n{"name": <think></think>', "hermes", THINK),
        ("{{ tools }}<tool_call><function=f><parameter=p>", "qwen-xml", None),
        ("{{ tools }}[TOOL_CALLS]", "mistral", None),
        ("{{ tools }}[TOOL_CALLS]x[ARGS][THINK]", "mistral-v11", Tags("[THINK]", "[/THINK]")),
        ('{{ tools }}<|start_header_id|>{"name": n, "parameters": p}', "llama3", None),
        ("{{ tools }}<|channel|>commentary", "harmony", None),
        ("{{ tools }}[gMASK]<|observation|>", "glm4", None),
        ("{{ tools }}<tool_call><arg_key>", "generic", None),
        ("{{ tools }}something else", "generic", None),
    ],
)
def test_the_template_tells_the_dialect(template: str, name: str, tags: Tags | None) -> None:
    choice = choose(template)
    assert (choice.dialect.name, choice.tags) == (name, tags) and choice.reason
    assert choose(template, dialect_named("phi4")).dialect.name == "phi4"


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(UsageError, match="hermes, "):
        dialect_named("klingon")
