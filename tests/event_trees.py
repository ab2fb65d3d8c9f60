"""What tests of both event APIs share: answers in pieces, and the events of a layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from portable.dialects.said import CallDelta, Said
from portable.engine.sequence import Usage
from portable.server.layout import Layout, Piece, Waiting

USED = Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=7)
_TEXT = st.text('aé 😀\n"{', min_size=1, max_size=4)


def _call(index: int, arguments: list[str]) -> list[Said]:
    """One call as readers tell it: its name first, then its arguments."""
    first = Said(calls=(CallDelta(index, f"call_{index}", f"tool_{index}"),))
    return [first, *(Said(calls=(CallDelta(index, arguments=text),)) for text in arguments)]


@st.composite
def answers(draw: st.DrawFn) -> list[Said]:
    """Thoughts, texts and whole calls in any order, each in pieces."""
    said: list[Said] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "content", "call"]), max_size=6)):
        texts = draw(st.lists(_TEXT, max_size=3))
        if kind == "call":
            said += _call(calls, texts)
            calls += 1
        else:
            said += [Said(**{kind: text}) for text in texts]
    return said


def streamed(layout: Layout, said: Iterable[Said], reason: str = "stop") -> list[Any]:
    """The events of an answer, each under its own type's name."""
    parts = [*layout.begin(1, USED.prompt_tokens), *layout.silence(0, Waiting("reading"))]
    for part in said:
        parts += layout.piece(Piece(0, part))
    parts += layout.piece(Piece(0, finish_reason=reason, usage=USED))
    return events(b"".join([*parts, *layout.end([USED])]))


def events(stream: bytes) -> list[Any]:
    """Parsed strictly: a name, a line of data, an empty line."""
    *found, rest = stream.decode().split("\n\n")
    assert rest == ""
    made = []
    for event in found:
        name, data = event.split("\n")
        made.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {made[-1]['type']}" and data.startswith("data: ")
    return made
