"""The engine through its seam: batching, prefixes, eviction, cancellation, ends."""

from __future__ import annotations

import pytest
from fakes import FakeBackend, ask, make_engine, run, shout, text
from hypothesis import given, settings
from hypothesis import strategies as st

from portable.engine.backend import Aborted, CacheFull
from portable.engine.sequence import SamplingParams
from portable.errors import ContextLengthExceeded, EngineError, InvalidRequest


def test_one_request_is_answered_and_counted() -> None:
    engine = make_engine()
    ask(engine, "a", "hello")
    deltas = run(engine)["a"]
    assert text(deltas) == "HELLO!"
    assert deltas[-1].finish_reason == "stop"
    usage = deltas[-1].usage
    assert usage and (usage.prompt_tokens, usage.completion_tokens) == (6, 6)


def test_many_requests_share_steps_and_get_their_own_answers() -> None:
    engine = make_engine(slots=4)
    for i in range(20):
        ask(engine, f"r{i}", f"prompt {i} " * (i + 1))
    answers = run(engine)
    assert all(text(answers[f"r{i}"]) == f"PROMPT {i} " * (i + 1) + "!" for i in range(20))
    batches = engine.backend.batches  # type: ignore[attr-defined]
    assert max(len(batch) for batch in batches) == 4


def test_a_long_prompt_is_cut_and_never_stalls_a_running_answer() -> None:
    backend = FakeBackend()
    backend.token_seconds = 1 / 128
    engine = make_engine(backend, step_tokens=64, step_seconds=0.25)
    ask(engine, "running", "x" * 200)
    while len(backend.batches) < 10:
        engine.step()
    ask(engine, "long", "y" * 500)
    run(engine)
    assert max(sum(count for _, count in batch) for batch in backend.batches) <= 64
    with_long = [dict(batch) for batch in backend.batches if dict(batch).get("long", 1) > 1]
    assert [batch["running"] for batch in with_long] == [1] * len(with_long)
    assert {batch["long"] for batch in with_long[:-1]} == {28}  # 32 tokens take 0.25 s


def test_the_next_turn_decodes_only_what_is_new() -> None:
    backend = FakeBackend(answer=lambda prompt: b"ok")
    engine = make_engine(backend)
    ask(engine, "one", "first turn")
    run(engine)
    backend.batches.clear()
    ask(engine, "two", "first turn>ok second")
    deltas = run(engine)["two"]
    usage = deltas[-1].usage
    assert text(deltas) == "ok"
    assert usage and usage.cached_tokens == len("first turn>o")
    assert backend.batches[0] == [("two", len("k second>"))]


def test_a_busy_prefix_is_shared_by_copy() -> None:
    backend = FakeBackend()
    engine = make_engine(backend, slots=4)
    ask(engine, "a", "system prompt " * 10 + "A")
    engine.step()
    ask(engine, "b", "system prompt " * 10 + "B")
    answers = run(engine)
    assert text(answers["b"]) == "SYSTEM PROMPT " * 10 + "B!"
    usage = answers["b"][-1].usage
    assert usage and usage.cached_tokens == 140


def test_another_request_does_not_cost_a_conversation_its_prefix() -> None:
    backend = FakeBackend(cells=300, answer=lambda prompt: b"ok")
    engine = make_engine(backend, slots=4)
    ask(engine, "turn 1", "x" * 200)
    run(engine)
    backend.answer = lambda prompt: b"a longer answer"
    ask(engine, "other", "y" * 20)
    engine.step()
    ask(engine, "turn 2", "x" * 200 + ">ok" + "z" * 10)
    usage = run(engine)["turn 2"][-1].usage
    assert usage and usage.cached_tokens == 200


def test_what_cannot_be_admitted_evicts_nothing() -> None:
    backend = FakeBackend(cells=300)
    engine = make_engine(backend, slots=4)
    ask(engine, "idle", "i" * 40)
    run(engine)
    ask(engine, "running", "r" * 100)
    engine.step()
    ask(engine, "big", "b" * 250)
    engine.step()
    assert any(slot.tokens[:40] == [*b"i" * 40] for slot in engine.scheduler.prefix.slots)
    assert text(run(engine)["big"]) == "B" * 49, "the context ends it"


def test_shared_cells_count_once() -> None:
    backend = FakeBackend(cells=400, answer=lambda prompt: b"ok" * 9)
    engine = make_engine(backend, slots=4)
    for id in "abcd":
        ask(engine, id, "s" * 250 + id)
        engine.step()
    assert len(engine.scheduler.running) == 4
    assert engine.scheduler.prefix.free_cells > 100
    assert all(text(deltas).endswith("k") for deltas in run(engine).values())


def test_a_short_prompt_does_not_wait_behind_a_long_one() -> None:
    backend = FakeBackend()
    engine = make_engine(backend, step_tokens=16)
    ask(engine, "long", "x" * 500)
    ask(engine, "short", "y" * 5)
    engine.step()
    assert ("short", 6) in backend.batches[0]


def test_a_long_prompt_moves_on_among_short_ones() -> None:
    backend = FakeBackend(answer=lambda prompt: b"ok")
    engine = make_engine(backend, slots=8, step_tokens=64)
    ask(engine, "long", "x" * 2000)
    ended = []
    for i in range(200):  # more to read in each step than a step can take
        while len(engine.scheduler.running) + len(engine.scheduler.waiting) < 8:
            ask(engine, f"{i} {len(backend.batches)} {len(engine._requests)}", f"{i:03}" * 20)
        ended += [delta.id for delta in engine.step() if delta.finish_reason]
    assert "long" in ended and len(ended) > 50


def test_a_backend_smaller_than_it_says_is_no_endless_loop() -> None:
    backend = FakeBackend(cells=60, answer=lambda prompt: b"ok")
    engine = make_engine(backend)
    engine.scheduler.prefix.cells = 1000
    ask(engine, "a", "a" * 30)
    ask(engine, "b", "b" * 30)
    answers = run(engine, most=200)
    assert text(answers["a"]) == text(answers["b"]) == "ok"


def test_a_prefix_that_is_just_being_read_is_read_once() -> None:
    backend = FakeBackend()
    engine = make_engine(backend, step_tokens=64)
    for id in "abcd":
        ask(engine, id, "s" * 300 + id)
    answers = run(engine)
    assert all(text(answers[id]) == "S" * 300 + id.upper() + "!" for id in "abcd")
    read = sum(count for batch in backend.batches for _, count in batch if count > 1)
    assert read < 302 + 3 * 10


def test_several_answers_to_one_prompt_read_it_once() -> None:
    backend = FakeBackend()
    engine = make_engine(backend, step_tokens=64)
    for id in "abcd":
        ask(engine, id, "s" * 300)
    answers = run(engine)
    assert all(text(answers[id]) == "S" * 300 + "!" for id in "abcd")
    read = sum(count for batch in backend.batches for _, count in batch if count > 1)
    assert read < 301 + 3 * 6


def test_waiting_for_a_prefix_holds_up_nobody_else() -> None:
    backend = FakeBackend()
    engine = make_engine(backend, step_tokens=64)
    for id, prompt in (("a", "s" * 300), ("b", "s" * 300 + "b"), ("other", "hello")):
        ask(engine, id, prompt)
    engine.step()
    assert ("other", 6) in backend.batches[0]
    assert "b" not in dict(backend.batches[0])
    assert text(run(engine)["b"]) == "S" * 300 + "B!"


def test_the_same_prompt_again_uses_the_same_slot() -> None:
    backend = FakeBackend(answer=lambda prompt: b"a long answer " * 20)
    engine = make_engine(backend, slots=4)
    for id in ("one", "two", "three"):
        ask(engine, id, "short")
        run(engine)
    assert [slot for slot, held in backend.slots.items() if held] == [0]


@pytest.mark.parametrize(("broken", "cached"), [(set(), 8), ({0}, 0)])
def test_a_prefix_that_lost_cells_is_read_again(broken: set[int], cached: int) -> None:
    backend = FakeBackend(answer=lambda prompt: b"ok")
    engine = make_engine(backend)
    ask(engine, "a", "the same text")
    run(engine)
    backend.broken = broken
    ask(engine, "b", "the same mess")
    usage = (deltas := run(engine)["b"])[-1].usage
    assert text(deltas) == "ok" and usage and usage.cached_tokens == cached


def test_without_prefix_cache_nothing_is_kept() -> None:
    backend = FakeBackend()
    engine = make_engine(backend, prefix_cache=False)
    ask(engine, "a", "hello")
    run(engine)
    ask(engine, "b", "hello")
    usage = run(engine)["b"][-1].usage
    assert usage and usage.cached_tokens == 0


@pytest.mark.parametrize(
    "steps", [0, 1, 3, 12], ids=["queued", "reading", "reading on", "answering"]
)
def test_cancelled_anywhere_the_others_go_on(steps: int) -> None:
    backend = FakeBackend()
    engine = make_engine(backend, slots=2, step_tokens=16)
    ask(engine, "kept", "keep me")
    ask(engine, "left", "x" * 60)
    for _ in range(steps):
        engine.step()
    delta = engine.cancel("left")
    assert delta and delta.finish_reason == "cancelled"
    answers = run(engine)
    assert text(answers.get("kept", [])).endswith("!") or steps == 12
    assert not any("left" in dict(batch) for batch in backend.batches[steps:])
    assert not any(slot.busy for slot in engine.scheduler.prefix.slots)


def test_a_full_cache_sends_the_newest_back_and_loses_nothing() -> None:
    backend = FakeBackend(cells=100)
    engine = make_engine(backend, slots=4)
    prompts = {f"r{i}": f"{i}" * 30 for i in range(4)}
    for id, prompt in prompts.items():
        ask(engine, id, prompt)
    answers = run(engine)
    assert {id: text(d) for id, d in answers.items()} == {i: p + "!" for i, p in prompts.items()}


def test_a_cache_that_is_fuller_than_counted_is_relieved() -> None:
    backend = FakeBackend()
    engine = make_engine(backend)
    ask(engine, "a", "hello")
    ask(engine, "b", "world")
    backend.faults = [CacheFull()]
    answers = run(engine)
    assert (text(answers["a"]), text(answers["b"])) == ("HELLO!", "WORLD!")


def test_a_cache_too_small_for_one_is_an_error() -> None:
    backend = FakeBackend()
    engine = make_engine(backend)
    ask(engine, "a", "hello")
    backend.faults = [CacheFull()]
    with pytest.raises(EngineError):
        run(engine)
    assert engine.fail(EngineError("gone"))[0].finish_reason == "error"
    assert not engine.has_work


def test_an_aborted_step_is_planned_again() -> None:
    backend = FakeBackend()
    engine = make_engine(backend)
    ask(engine, "a", "hello")
    backend.faults = [Aborted(), Aborted()]
    assert text(run(engine)["a"]) == "HELLO!"


def test_numbers_that_are_none_end_one_request_only() -> None:
    backend = FakeBackend()
    backend.bad_rows = {"bad"}
    engine = make_engine(backend)
    ask(engine, "bad", "hello")
    ask(engine, "good", "world")
    answers = run(engine)
    assert answers["bad"][-1].error and answers["bad"][-1].error[0] == "non_finite_logits"
    assert text(answers["good"]) == "WORLD!"
    assert not backend.slots[0], "the cells of a broken request must not be used again"


@pytest.mark.parametrize(
    ("params", "answer", "reason"),
    [
        (SamplingParams(temperature=0, max_tokens=3), "HEL", "length"),
        (SamplingParams(temperature=0, max_tokens=0), "", "length"),
        (SamplingParams(temperature=0, max_tokens=999), "HELLO!", "stop"),
        (SamplingParams(temperature=0, stop=("LO",)), "HEL", "stop"),
        (SamplingParams(temperature=0, stop=("LOX", "Q")), "HELLO!", "stop"),
    ],
)
def test_ends(params: SamplingParams, answer: str, reason: str) -> None:
    engine = make_engine()
    ask(engine, "a", "hello", params)
    deltas = run(engine)["a"]
    assert (text(deltas), deltas[-1].finish_reason) == (answer, reason)


def test_the_context_ends_an_answer() -> None:
    engine = make_engine(FakeBackend(cells=16))
    ask(engine, "a", "0123456789")
    deltas = run(engine)["a"]
    assert (text(deltas), deltas[-1].finish_reason) == ("01234", "length")


def test_prompts_that_cannot_be_answered_are_refused() -> None:
    engine = make_engine(FakeBackend(cells=16))
    with pytest.raises(ContextLengthExceeded, match=r"16 tokens.*16"):
        engine.add("a", [1] * 16, SamplingParams())
    with pytest.raises(InvalidRequest, match="empty"):
        engine.add("a", [], SamplingParams())
    with pytest.raises(InvalidRequest, match="vocabulary"):
        engine.add("a", [999], SamplingParams())
    with pytest.raises(InvalidRequest, match="vocabulary"):
        engine.add("a", [1], SamplingParams(logit_bias={999: 1.0}))
    assert not engine.has_work


@settings(max_examples=150, deadline=None)
@given(
    prompts=st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=12),
    slots=st.integers(1, 5),
    step=st.integers(1, 20),
    cells=st.integers(90, 300),
    cancelled=st.sets(st.integers(0, 11), max_size=4),
    when=st.integers(0, 30),
    speculate=st.booleans(),
    recurrent=st.booleans(),
)
def test_any_mix_comes_to_its_end_with_the_right_answers(
    prompts: list[str],
    slots: int,
    step: int,
    cells: int,
    cancelled: set[int],
    when: int,
    speculate: bool,
    recurrent: bool,
) -> None:
    engine = make_engine(
        FakeBackend(cells=cells, recurrent=recurrent),
        slots=slots,
        step_tokens=step,
        speculate=speculate,
    )
    answers: dict[str, str] = {}
    for i, prompt in enumerate(prompts):
        ask(engine, str(i), prompt)
    for _ in range(when):
        for delta in engine.step():
            answers[delta.id] = answers.get(delta.id, "") + delta.text
    for i in cancelled:
        engine.cancel(str(i))
    for id, deltas in run(engine).items():
        answers[id] = answers.get(id, "") + text(deltas)
    for i, prompt in enumerate(prompts):
        if i not in cancelled:
            assert answers[str(i)] == shout(prompt.encode()).decode()
    assert not any(slot.busy for slot in engine.scheduler.prefix.slots)
