"""Prefixes of models whose caches cannot be shortened: where marks are left, and what they save."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeBackend, ask, make_engine, run, text
from hypothesis import given, settings
from hypothesis import strategies as st

from portable.engine.backend import Aborted
from portable.engine.engine import Engine
from portable.engine.marks import Mark, points, surplus
from portable.engine.prefix import Copy, Keep, Restore, in_order

SYSTEM = "<" + "You are a fruit. " * 12  # 205 tokens; messages begin with a control token


def recurrent(**options: float) -> Engine:
    return make_engine(FakeBackend(answer=lambda prompt: b"ok", recurrent=True), **options)


def cached(engine: Engine, prompt: str) -> int:
    """How much of a prompt was not read again; the answer is checked on the way."""
    ask(engine, "x", prompt)
    deltas = run(engine)["x"]
    assert text(deltas) == "ok" and deltas[-1].usage
    return deltas[-1].usage.cached_tokens


def test_the_next_turn_reads_only_what_is_new() -> None:
    engine = recurrent()
    talk = SYSTEM + "<one|"
    assert cached(engine, talk) == 0
    assert cached(engine, talk + ">ok<two|") == len(talk + ">ok")
    assert cached(engine, talk + ">ok<two|>ok<three|") == len(talk + ">ok<two|>ok")


def test_a_turn_that_is_repeated_differently_goes_on_from_its_own_beginning() -> None:
    engine = recurrent()
    talk = SYSTEM + "<" + "question " * 20
    cached(engine, talk + "|think")
    assert cached(engine, talk + "|plain>ok<two|") == len(talk) // 4 * 4


def test_a_second_request_with_the_same_system_prompt_reads_it_no_more() -> None:
    engine = recurrent()
    cached(engine, SYSTEM + "<" + "a" * 100 + "|")
    assert cached(engine, SYSTEM + "<" + "b" * 100 + "|") == len(SYSTEM) // 4 * 4


def test_where_prompts_part_is_learned_from_the_second() -> None:
    engine = recurrent()
    begun = [cached(engine, "s" * 300 + name * 200) for name in "abc"]
    assert begun == [0, 0, 300]


@pytest.mark.parametrize("prompt", ["s" * 300, "s" * 300 + "{}", "s" * 300 + "{}" * 90])
def test_a_crowd_with_one_beginning_reads_it_once(prompt: str) -> None:
    engine = recurrent(step_tokens=64)
    for name in "abcd":
        ask(engine, name, prompt.replace("{}", name))
    answers = run(engine)
    assert all(text(deltas) == "ok" for deltas in answers.values())
    read = sum(count for batch in engine.backend.batches for _, count in batch if count > 1)  # type: ignore[attr-defined]
    assert read < 300 + 4 * 99


def test_what_an_abort_spoilt_is_read_again_from_the_last_mark() -> None:
    engine = recurrent()
    ask(engine, "x", SYSTEM + "<" + "question " * 20)
    backend = engine.backend
    for _ in range(2):
        engine.step()
        backend.faults = [Aborted()]  # type: ignore[attr-defined]
    assert text(run(engine)["x"]) == "ok"
    sizes = [count for batch in backend.batches for _, count in batch]  # type: ignore[attr-defined]
    assert sum(sizes) < 2 * len(SYSTEM) + 200 and not backend.spoilt  # type: ignore[attr-defined]


def test_a_part_that_cannot_be_loaded_costs_time_and_nothing_else() -> None:
    engine = recurrent(slots=3)
    cached(engine, SYSTEM + "<" + "a" * 100)
    engine.backend.lost_parts = 2  # type: ignore[attr-defined]
    for name in "bcd":
        ask(engine, name, SYSTEM + "<" + name * 100)
    assert [text(deltas) for deltas in run(engine).values()] == ["ok"] * 3


def test_marks_stay_within_their_bytes_and_the_longest_unused_goes() -> None:
    engine = recurrent()
    engine.scheduler.prefix.mark_bytes = 4 * (len(SYSTEM) // 4 * 4 + 300)
    for _ in range(2):
        for name in "abcdef":
            cached(engine, SYSTEM + "<" + name * 300 + "|")
        marks = {mark for slot in engine.scheduler.prefix.slots for mark in slot.marks}
        assert sum(mark.state.nbytes for mark in marks) <= engine.scheduler.prefix.mark_bytes
        assert {mark.count for mark in marks} >= {len(SYSTEM) // 4 * 4}, "everybody uses it"


def test_without_room_or_without_a_prefix_cache_no_mark_is_left() -> None:
    for engine in (recurrent(prefix_cache=False), recurrent()):
        engine.backend.save_part = lambda *_: None  # type: ignore[method-assign]
        assert cached(engine, SYSTEM) == cached(engine, SYSTEM) == 0


def test_points() -> None:
    def control(token: int) -> bool:
        return token < 0

    system, question = [1] * 100, [2] * 70
    assert points([*system, -1, *question, -2, 5], control) == {100, 168}
    assert points([*system, -1, 7, 8], control) == {100}
    assert points([-1] * 3 + system, control) == {100}, "the prompt's own end"
    assert points([1, 2, 3], control) == points([-1], control) == set()


def test_slots_are_brought_back_last_and_only_for_those_who_still_want_it() -> None:
    one, two, again = (Mark(n, np.zeros(1, np.uint8)) for n in (4, 8, 12))
    moves = [
        Restore(0, one),
        Keep(1, 0),
        Copy(0, 1, 8),
        Restore(1, two),
        Restore(0, again),
        Restore(2, one),
        Keep(2, 0),
    ]
    assert in_order(moves) == [
        *(Keep(1, 0), Copy(0, 1, 8), Keep(2, 0)),
        *(Restore(0, again), Restore(1, two)),
    ]


def test_surplus() -> None:
    old, new, other = (Mark(4, np.zeros(10, np.uint8), used) for used in (1, 3, 2))
    assert surplus([old, new, old, other], 25) == {old}
    assert surplus([old, new, other], 9) == {old, new, other}


WORDS = st.lists(st.sampled_from(["a" * 70, "b" * 90, "c" * 5, "<", "|"]), max_size=6).map("".join)


@settings(max_examples=150, deadline=None)
@given(
    prompts=st.lists(WORDS, min_size=1, max_size=12),
    slots=st.integers(1, 5),
    step=st.integers(1, 200),
    cells=st.integers(1100, 2000),
    most=st.sampled_from([0, 500, 2000, 1 << 30]),
    faults=st.sets(st.integers(0, 40), max_size=4),
    losses=st.sets(st.integers(0, 40), max_size=4),
    gap=st.integers(0, 9),
)
def test_no_mark_changes_an_answer(
    prompts: list[str],
    slots: int,
    step: int,
    cells: int,
    most: int,
    faults: set[int],
    losses: set[int],
    gap: int,
) -> None:
    """A slot continued from a wrong state, or a spoilt one, would fail in the fake."""
    backend = FakeBackend(cells=cells, recurrent=True)
    backend.mark_bytes = most
    engine = make_engine(backend, slots=slots, step_tokens=step)
    said: dict[str, str] = {}
    waiting = dict(enumerate(prompts))
    for at in range(20_000):
        if at % (gap + 1) == 0 and waiting:
            number = min(waiting)
            ask(engine, str(number), waiting.pop(number) + "x")
        if not (engine.has_work or waiting):
            break
        if at in faults:
            backend.faults = [Aborted()]
        backend.lost_parts = at in losses
        for delta in engine.step():
            said[delta.id] = said.get(delta.id, "") + delta.text
    assert said == {str(n): (p + "x").upper() + "!" for n, p in enumerate(prompts)}
