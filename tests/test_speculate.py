"""Guessing ahead: the same answers in fewer steps, and never a token that was not drawn."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from fakes import ASK, FakeBackend, ask, make_engine, run, shout, text

from portable.engine.config import EngineConfig
from portable.engine.costs import StepCosts
from portable.engine.engine import Engine
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.engine.speculation.drafter import Terms
from portable.engine.speculation.lookup import Lookup
from portable.engine.speculation.record import Record
from portable.engine.speculation.speculator import Speculator

POEM = "the rain in spain stays mainly in the plain, and so it goes, "
TERMS = Terms(answering=1, plain=1.0, row=0.3)
# Milliseconds of a step by its rows: SmolLM2-135M Q4_1, and Qwen2.5-0.5B's shape in Q4_K_M, here.
SMOLLM2 = {1: 9.0, 2: 14.4, 3: 16.9, 4: 19.9, 6: 25.9, 8: 30.0, 12: 42.3, 16: 57.3}
QWEN = {1: 15.2, 2: 29.0, 3: 37.1, 4: 38.5, 6: 49.2, 8: 56.7, 12: 70.6, 16: 73.8}


def costs_of(table: dict[int, float]) -> StepCosts:
    costs = StepCosts()
    for rows, seconds in table.items():
        costs.learn(rows, seconds)
    return costs


def cheap(answer: bytes) -> FakeBackend:
    """Rows cost nothing beside steps: guessing always pays."""
    backend = FakeBackend(answer=lambda prompt: answer)
    backend.step_seconds = 0.01
    return backend


def guessed(tokens: list[int], most: int) -> tuple[int, ...]:
    sequence = Sequence("a", tokens, SamplingParams())
    guesses = Lookup().propose({sequence: most}, TERMS)
    return guesses[sequence].tokens if guesses else ()


def test_a_lookup_proposes_what_followed_last_time() -> None:
    assert guessed([1, 2, 3, 4, 5], 5) == ()
    assert guessed([1, 2, 3, 4, 5, 1, 2, 3], 3) == (4, 5, 1)
    assert guessed([1, 2, 3, 4, 5, 1, 2, 3, 9, 1, 2, 3], 2) == (9, 1)


def test_a_longer_match_wins_over_a_later_one_and_is_surer() -> None:
    tokens = [9, 8, 1, 2, 3, 4, 7, 1, 2, 3, 5, 9, 8, 1, 2, 3]
    sequence, lookup = Sequence("a", tokens[:-1], SamplingParams()), Lookup()
    lookup.propose({sequence: 3}, TERMS)
    sequence.tokens.append(3)
    guess = lookup.propose({sequence: 3}, TERMS)[sequence]
    assert guess.tokens == (4, 7, 1)
    assert guess.kinds[0] < guess.kinds[2], "behind tokens that came true the match is longer"


def test_rates_follow_what_comes_true() -> None:
    record = Record([0.5])
    for _ in range(200):
        record.learn(0, True)
    assert record.rate(0) > 0.95
    for _ in range(100):
        record.learn(0, False)
    assert record.rate(0) < 0.25


def test_costs_are_medians_and_lie_on_a_line_between_what_was_measured() -> None:
    costs = costs_of({1: 1.0, 4: 2.0})
    for seconds in (2.0, 50.0):  # another program's turn
        costs.learn(4, seconds)
    assert [costs.seconds(n) for n in (1, 2, 4)] == [1.0, pytest.approx(4 / 3), 2.0]
    assert costs.seconds(7) == pytest.approx(3.0)
    assert costs_of({1: 1.0, 2: 1.9}).seconds(8) < 5, "the second row says little of the eighth"
    assert StepCosts().seconds(3) == 0


def test_a_busy_machine_makes_steps_of_all_sizes_slower_and_a_quiet_one_faster_again() -> None:
    costs = costs_of({1: 1.0, 8: 3.0})
    for _ in range(5):
        costs.learn(1, 5.0)
    assert costs.seconds(1) == pytest.approx(5) and 9 < costs.seconds(8) < 15
    for _ in range(5):
        costs.learn(1, 1.0)
    assert [costs.seconds(n) for n in (1, 8)] == pytest.approx([1, 3])
    for _ in range(60):  # each in its turn: so their ratio is learned, too
        costs.learn(8, 6.0)
        costs.learn(1, 1.0)
    assert costs.seconds(8) / costs.seconds(1) == pytest.approx(6, rel=0.05)


def replay(prompt: list[int], answer: list[int], table: dict[int, float]) -> float:
    """How many times faster an answer is with prompt lookup, if steps cost that much."""
    costs = costs_of(table)
    speculator = Speculator([Lookup()], costs)
    sequence = Sequence("a", list(prompt), SamplingParams(), slot=0)
    spent = 0.0
    while left := len(prompt) + len(answer) - len(sequence.tokens):
        sequence.cached = len(sequence.tokens) - 1
        speculator.propose([sequence], 512, len(prompt) + len(answer))
        part = Slice(sequence, sequence.cached, 1, sequence.draft)
        spent += costs.seconds(part.size)
        for at in range(part.rows):
            sequence.tokens.append(answer[-left + at])
            if not speculator.confirms(part, at, sequence.tokens[-1]):
                break
        speculator.settle([part])
    return len(answer) * costs.seconds(1) / spent


@pytest.mark.parametrize("table", [SMOLLM2, QWEN])
def test_copies_are_fast_and_nothing_else_is_slower(table: dict[int, float]) -> None:
    source = list(Path(__file__).read_bytes()[:3000])
    edited = source[:700] + list(b"# something new\n") + source[900:]
    assert replay(source, source, table) > 2
    assert replay(source, edited, table) > 1.7
    # Repetitions that end soon: a bar on how often they came true lost up to 5 % here.
    random = np.random.default_rng(1)
    for length in (4, 6, 9, 14):
        words = [list(random.integers(0, 200, length)) for _ in range(20)]
        babble = [int(t) for _ in range(100) for t in words[random.integers(20)]]
        assert replay(babble[:200], babble[200:800], table) > 0.97


def test_a_repeated_text_takes_fewer_steps() -> None:
    backend = cheap((POEM * 4).encode())
    engine = make_engine(backend, speculate=True)
    ask(engine, "a", POEM * 4)
    deltas = run(engine)["a"]
    usage = deltas[-1].usage
    assert text(deltas) == POEM * 4
    assert usage and usage.completion_tokens == len(POEM * 4)
    assert usage.accepted_tokens > len(POEM) * 2
    assert len(backend.batches) < usage.completion_tokens - usage.accepted_tokens + 3


def test_streams_that_copy_get_the_rows_of_those_that_do_not() -> None:
    clocks = []
    for speculate in (False, True):
        backend = FakeBackend(answer=lambda prompt: prompt * 4 if prompt < b"c" else shout(prompt))
        backend.step_seconds, backend.token_seconds = 0.010, 0.001
        engine = make_engine(backend, speculate=speculate)
        while engine.calibrate():
            pass
        backend.now = 0.0
        for id in "abcd":
            ask(engine, id, f"{id} {POEM}" + string.ascii_letters * 3)
        answers = run(engine)
        clocks.append(backend.now)
    assert clocks[1] < 0.6 * clocks[0]
    kept = {id: u.accepted_tokens for id, deltas in answers.items() if (u := deltas[-1].usage)}
    assert min(kept["a"], kept["b"]) > 300 and text(answers["c"]).startswith("C THE RAIN")


def test_those_who_wait_for_a_slot_do_not_keep_others_from_guessing() -> None:
    engine = make_engine(cheap((POEM * 4).encode()), speculate=True, slots=1)
    for id in ("first", "waits"):
        ask(engine, id, POEM)
    usages = [deltas[-1].usage for deltas in run(engine).values()]
    assert all(usage and usage.accepted_tokens > len(POEM) * 2 for usage in usages)


def test_a_wrong_guess_costs_no_letter() -> None:
    changed = POEM * 3 + POEM.replace("rain", "train") + POEM.upper() + POEM
    engine = make_engine(cheap(changed.encode()), speculate=True)
    ask(engine, "a", POEM)
    usage = (deltas := run(engine)["a"])[-1].usage
    assert text(deltas) == changed
    assert usage and 0 < usage.accepted_tokens < usage.drafted_tokens


@pytest.mark.parametrize("limit", [1, 2, 30, 31, 32, 33])
def test_limits_and_stops_hold_amid_a_draft(limit: int) -> None:
    backend = cheap(b"ab" * 200)
    engine = make_engine(backend, speculate=True)
    engine.add("a", [*b"x", *ASK], SamplingParams(temperature=0, max_tokens=limit))
    deltas = run(engine)["a"]
    assert text(deltas) == ("ab" * 200)[:limit] and deltas[-1].finish_reason == "length"
    stop = SamplingParams(temperature=0, stop=("ab" * 20 + "a",))
    engine.add("b", [*b"x", *ASK], stop)
    deltas = run(engine)["b"]
    assert text(deltas) == "" and deltas[-1].finish_reason == "stop"


def test_a_cache_without_room_takes_no_drafts() -> None:
    backend = cheap(b"ab" * 60)
    backend.cells = backend.context = 130
    engine = make_engine(backend, speculate=True)
    ask(engine, "a", "hello")
    assert text(run(engine, most=500)["a"]) == "ab" * 60


def test_a_model_that_keeps_no_parts_is_not_guessed_for() -> None:
    backend = cheap(b"ab" * 60)
    backend.can_keep_part = False
    engine = make_engine(backend, speculate=True)
    ask(engine, "a", "hello")
    usage = run(engine)["a"][-1].usage
    assert usage and usage.drafted_tokens == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_text_of_a_real_model_stays_the_same(smollm2: Path, temperature: float) -> None:
    said = []
    for speculate in (False, True):
        # With flash attention a row of this model is the same among 1 to 63 others.
        config = EngineConfig(
            smollm2, context=1024, threads=1, speculate=speculate, flash_attention="on"
        )
        llama = Llama(config)
        engine = Engine(llama, config)
        # A cheap step, whatever this machine is: drafts are then made whenever they hit.
        engine.costs.seconds = lambda rows: 1.0  # type: ignore[method-assign]
        tokens = llama.tokenize("Red, green, blue. Red, green, blue. Red", special=True, start=True)
        params = SamplingParams(temperature=temperature, seed=7, max_tokens=120)
        engine.add("a", tokens, params)
        deltas = run(engine)["a"]
        said.append((text(deltas), deltas[-1].usage))
        llama.close()
    (plain, without), (guessed, usage) = said
    assert plain == guessed
    assert without and usage and without.drafted_tokens == 0 < usage.accepted_tokens
