"""Guessing ahead: the same answers in fewer steps, and never a token that was not drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import ASK, FakeBackend, ask, make_engine, run

from portable.engine.config import EngineConfig
from portable.engine.engine import Engine
from portable.engine.llama import Llama
from portable.engine.sequence import Delta, SamplingParams
from portable.engine.speculate import Costs, Lookup, draft_length

POEM = "the rain in spain stays mainly in the plain, and so it goes, "


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def test_a_lookup_proposes_what_followed_last_time() -> None:
    lookup = Lookup()
    assert lookup.propose([1, 2, 3, 4, 5], 5) == []
    assert lookup.propose([1, 2, 3, 4, 5, 1, 2, 3], 3) == [4, 5, 1]
    assert lookup.propose([1, 2, 3, 4, 5, 1, 2, 3, 9, 1, 2, 3], 2) == [9, 1]


def test_the_hit_rate_is_learned_without_drafting() -> None:
    lookup = Lookup()
    tokens = [1, 2, 3, 4, 5, 6, 7, 8] * 5
    for end in range(4, len(tokens)):
        lookup.propose(tokens[:end], 5)
        lookup.confirms((), tokens[end])
    assert lookup.hit_rate > 0.9
    for _ in range(20):
        lookup.propose(tokens, 5)
        lookup.confirms((), 100)
    assert lookup.hit_rate < 0.1


@pytest.mark.parametrize(
    ("hit_rate", "seconds_of_four", "drafts"),
    [
        (0.95, 1.1, True),
        (0.95, 4.5, False),
        (0.2, 1.6, False),
        (0.0, 1.0, False),
    ],
)
def test_drafts_are_made_where_they_pay(
    hit_rate: float, seconds_of_four: float, drafts: bool
) -> None:
    costs = Costs()
    for size in (1, 2, 3, 4, 6, 8, 12, 16):
        costs.learn(size, 1 + (seconds_of_four - 1) * (size - 1) / 3)
    assert bool(draft_length(hit_rate, 1, 15, costs)) is drafts


def test_a_repeated_text_takes_fewer_steps() -> None:
    backend = FakeBackend(answer=lambda prompt: prompt)
    engine = make_engine(backend, speculate=True)
    ask(engine, "a", POEM * 4)
    deltas = run(engine)["a"]
    usage = deltas[-1].usage
    assert text(deltas) == POEM * 4
    assert usage and usage.completion_tokens == len(POEM * 4)
    assert usage.accepted_tokens > len(POEM) * 2
    assert len(backend.batches) < usage.completion_tokens - usage.accepted_tokens + 3


def test_a_wrong_guess_costs_no_letter() -> None:
    changed = POEM * 3 + POEM.replace("rain", "train") + POEM.upper() + POEM
    engine = make_engine(FakeBackend(answer=lambda prompt: changed.encode()), speculate=True)
    ask(engine, "a", POEM)
    usage = (deltas := run(engine)["a"])[-1].usage
    assert text(deltas) == changed
    assert usage and 0 < usage.accepted_tokens < usage.drafted_tokens


@pytest.mark.parametrize("limit", [1, 2, 30, 31, 32, 33])
def test_limits_and_stops_hold_amid_a_draft(limit: int) -> None:
    backend = FakeBackend(answer=lambda prompt: b"ab" * 200)
    engine = make_engine(backend, speculate=True)
    engine.add("a", [*b"x", *ASK], SamplingParams(temperature=0, max_tokens=limit))
    deltas = run(engine)["a"]
    assert text(deltas) == ("ab" * 200)[:limit] and deltas[-1].finish_reason == "length"
    stop = SamplingParams(temperature=0, stop=("ab" * 20 + "a",))
    engine.add("b", [*b"x", *ASK], stop)
    deltas = run(engine)["b"]
    assert text(deltas) == "" and deltas[-1].finish_reason == "stop"


def test_a_cache_without_room_takes_no_drafts() -> None:
    backend = FakeBackend(cells=130, answer=lambda prompt: b"ab" * 60)
    engine = make_engine(backend, speculate=True)
    ask(engine, "a", "hello")
    assert text(run(engine, most=500)["a"]) == "ab" * 60


def test_a_model_that_keeps_no_parts_is_not_guessed_for() -> None:
    backend = FakeBackend(answer=lambda prompt: b"ab" * 60)
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
            smollm2, context=1024, slots=2, speculate=speculate, flash_attention="on"
        )
        llama = Llama(config)
        engine = Engine(llama, config)
        # A cheap step, whatever this machine is: drafts are then made whenever they hit.
        engine.costs.ratio = lambda more, rows: 1.0  # type: ignore[method-assign]
        tokens = llama.tokenize("Red, green, blue. Red, green, blue. Red", special=True, start=True)
        params = SamplingParams(temperature=temperature, seed=7, max_tokens=120)
        engine.add("a", tokens, params)
        deltas = run(engine)["a"]
        said.append((text(deltas), deltas[-1].usage))
        llama.close()
    (plain, without), (guessed, usage) = said
    assert plain == guessed
    assert without and usage and without.drafted_tokens == 0 < usage.accepted_tokens
