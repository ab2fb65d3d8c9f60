"""Sampling against a plain reference of its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portable.engine.sampling import Sampler, _at, _nucleus, _top
from portable.engine.sequence import SamplingParams, layered
from portable.errors import NonFiniteLogits

RNG = np.random.default_rng(7)
LOGITS = (RNG.standard_normal(5000) * 3).astype(np.float32)


def drawn(params: SamplingParams, logits: np.ndarray = LOGITS, times: int = 300) -> set[int]:
    sampler = Sampler(params, [])
    return {sampler.pick(logits) for _ in range(times)}


def allowed(logits: np.ndarray, params: SamplingParams) -> set[int]:
    """The tokens that may be drawn, by the definitions of top_k, top_p and min_p."""
    p = np.exp((logits - logits.max()) / params.temperature).astype(np.float64)
    order = np.argsort(-p, kind="stable")
    if params.top_k:
        order = order[: params.top_k]
    cumulative = p[order].cumsum()
    if params.top_p < 1:
        before = cumulative - p[order]
        order = order[before < params.top_p * cumulative[-1] * (1 + 1e-6)]
    return {int(i) for i in order if p[i] >= params.min_p * (1 - 1e-6)}


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-9])
def test_no_temperature_is_greedy(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, top_k=50)
    assert drawn(params, times=5) == {int(LOGITS.argmax())}


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 2),
    st.sampled_from([0, 1, 5, 40, 5000]),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5]),
)
def test_only_allowed_tokens_are_drawn(t: float, k: int, p: float, m: float) -> None:
    params = SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m, seed=1)
    assert drawn(params, times=50) <= allowed(LOGITS, params)


def test_a_small_nucleus_is_drawn_completely() -> None:
    params = SamplingParams(temperature=1, top_k=4, seed=3)
    assert drawn(params) == allowed(LOGITS, params)


def test_frequencies_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplingParams(seed=0), [])
    counts = np.bincount([sampler.pick(logits) for _ in range(8000)], minlength=4) / 8000
    assert np.abs(counts - [0.5, 0.3, 0.15, 0.05]).max() < 0.02


def test_a_seed_repeats_and_another_does_not() -> None:
    def run(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), [])
        return [sampler.pick(LOGITS) for _ in range(50)]

    assert run(42) == run(42) != run(43)
    assert run(None) != run(None)


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_top_finds_the_largest_first(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 500, 3000).astype(np.float32)
    assert (_top(values, count) == np.argsort(-values, kind="stable")[:count]).all()


@given(st.integers(0, 9999), st.integers(1, 1000), st.floats(0, 1))
def test_a_draw_from_all_tokens_is_where_the_running_sum_says(
    seed: int, size: int, part: float
) -> None:
    random = np.random.default_rng(seed)
    weights = np.exp(random.normal(0, 9, size)).astype(np.float32) * (random.random(size) < 0.3)
    weights[random.integers(size)] = 1.0
    at = _at(weights, part)
    sums = weights.cumsum(dtype=np.float64)
    assert weights[at] > 0
    near = 1e-9 * sums[-1]
    assert sums[at] - weights[at] - near <= part * sums[-1] <= sums[at] + near


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 0.9999999])
def test_a_nucleus_is_what_sorting_all_gives(spread: float, top_p: float) -> None:
    random = np.random.default_rng(3)
    weights = np.exp(random.normal(0, spread, 5000)).astype(np.float32)
    weights[::7] = 0
    weights[100:300] = weights[1]
    order = np.argsort(-weights, kind="stable")
    sums = weights[order].cumsum(dtype=np.float64)
    count = int(np.searchsorted(sums, top_p * weights.sum(dtype=np.float64))) + 1
    found = _nucleus(weights, top_p)
    assert sorted(found) == sorted(order[:count]) and (weights[found] > 0).all()


def test_penalties_and_bias() -> None:
    logits = np.array([2.0, 1.9, -1.0, 0.0], np.float32)

    def first(prompt: list[int], **options: object) -> int:
        return Sampler(SamplingParams(temperature=0, **options), prompt).pick(logits)  # type: ignore[arg-type]

    assert first([]) == 0
    assert first([0], repetition_penalty=1.2) == 1  # 2.0 / 1.2 < 1.9
    assert first([0], presence_penalty=2.0) == 0  # the prompt does not count
    assert first([], logit_bias={2: 100.0}) == 2
    assert first([], logit_bias={0: -100.0}) == 1
    assert logits.tolist() == pytest.approx([2.0, 1.9, -1.0, 0.0]), "the model's row is only read"


def test_penalties_count_the_answer() -> None:
    logits = np.array([2.0, 1.9, 1.65], np.float32)
    presence = Sampler(SamplingParams(temperature=0, presence_penalty=0.2), [])
    assert [presence.pick(logits) for _ in range(3)] == [0, 1, 0]
    frequency = Sampler(SamplingParams(temperature=0, frequency_penalty=0.2), [])
    assert [frequency.pick(logits) for _ in range(5)] == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_with_no_number_is_an_error(value: float) -> None:
    logits = LOGITS.copy()
    logits[17] = value
    with pytest.raises(NonFiniteLogits):
        Sampler(SamplingParams(temperature=0), []).pick(logits)
    with pytest.raises(NonFiniteLogits):
        Sampler(SamplingParams(), []).pick(np.full(9, -np.inf, np.float32))


def test_layers_of_defaults() -> None:
    params = layered({"temperature": 0.7, "top_k": 20}, {"top_k": -1.0}, {"temperature": 1.0})
    assert (params.temperature, params.top_k, params.top_p) == (1.0, 0, 1.0)
