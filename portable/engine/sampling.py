"""Logits -> the next token, in numpy; knows no llama.cpp sampler, so none can abort the process.

Source: the order and meaning of vLLM's and transformers' logits processors; min_p after
https://arxiv.org/abs/2407.01082.
"""

from __future__ import annotations

import math
import random
from typing import Protocol

import numpy as np
import numpy.typing as npt

from portable.engine.sequence import SamplingParams
from portable.errors import NonFiniteLogits

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

Weights = npt.NDArray[np.float32]

# exp() of anything further below the maximum is 0 in float32, so such tokens are never drawn.
_FLOOR = 104.0
# Below it the likeliest token has all the weight, and float32 can no longer divide by it.
_COLDEST = 1e-4
_BLOCK = 64
_LIKELY = 1024


class Constraint(Protocol):
    """What a grammar asks of the tokens of one answer."""

    @property
    def finished(self) -> bool: ...
    def masked(self, logits: Logits) -> Logits: ...
    def accept(self, token: int) -> None: ...


class Sampler:
    """Draws the tokens of one sequence; repeats itself exactly for the same seed and logits."""

    def __init__(
        self, params: SamplingParams, prompt: list[int], constraint: Constraint | None = None
    ) -> None:
        self._params = params
        self._constraint = constraint
        self._random = random.Random(params.seed)
        self._seen = set(prompt) if params.repetition_penalty != 1.0 else set()
        self._counts: dict[int, int] = {}
        penalties = params.presence_penalty, params.frequency_penalty
        self._counts_tokens = any(penalties) or params.repetition_penalty != 1.0
        self._changes_logits = self._counts_tokens or bool(params.logit_bias)

    def pick(self, logits: Logits) -> int:
        """One token id for a row of shape (n_vocab,). Raises NonFiniteLogits for NaN or inf."""
        params = self._params
        if self._changes_logits:
            logits = self._penalized(logits)
        best, peak = _sound_peak(logits)
        if self._constraint:
            logits = self._constraint.masked(logits)
            best, peak = _sound_peak(logits)
        token = best if params.temperature < _COLDEST else self._draw(logits, peak)
        if self._constraint:
            self._constraint.accept(token)
        if self._counts_tokens:
            self._counts[token] = self._counts.get(token, 0) + 1
            if params.repetition_penalty != 1.0:
                self._seen.add(token)
        return token

    @property
    def finished(self) -> bool:
        """The grammar allows nothing more."""
        return self._constraint is not None and self._constraint.finished

    def _penalized(self, logits: Logits) -> Logits:
        params, logits = self._params, logits.copy()
        if params.logit_bias:
            ids = np.fromiter(params.logit_bias, np.int64)
            logits[ids] += np.fromiter(params.logit_bias.values(), np.float32)
        if params.repetition_penalty != 1.0:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            seen = logits[ids]
            factor = np.where(seen > 0, 1 / params.repetition_penalty, params.repetition_penalty)
            logits[ids] = seen * factor.astype(np.float32)
        if self._counts:
            ids = np.fromiter(self._counts, np.int64)
            counts = np.fromiter(self._counts.values(), np.float32)
            logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
        return logits

    def _draw(self, logits: Logits, peak: float) -> int:
        params = self._params
        if not params.top_k and params.top_p >= 1 and not params.min_p:
            weights = _weights(logits, peak, params.temperature)
            return _at(weights, self._random.random())
        ids = self._candidates(logits, peak)
        weights = _weights(logits[ids], peak, params.temperature)
        if params.top_k and params.top_p < 1:
            likely = _nucleus(weights, params.top_p)
            ids, weights = ids[likely], weights[likely]
        if params.min_p > 0:
            ids = ids[weights >= params.min_p]
            weights = weights[weights >= params.min_p]
        return int(ids[_at(weights, self._random.random())])

    def _candidates(self, logits: Logits, peak: float) -> Ids:
        """Ids that one filter leaves; whatever else there is goes through those few."""
        params = self._params
        if params.top_k:
            return _top(logits, params.top_k)
        if params.top_p < 1:
            return _nucleus(_weights(logits, peak, params.temperature), params.top_p)
        # Rounded up: it is applied exactly afterwards.
        depth = min(_FLOOR, 0.001 - math.log(params.min_p))
        return np.flatnonzero(logits >= peak - depth * params.temperature)


def _weights(logits: Logits, peak: float, temperature: float) -> Weights:
    """What each token weighs beside the likeliest one, in one new array."""
    weights: Weights = logits - np.float32(peak)
    weights /= np.float32(temperature)
    np.exp(weights, out=weights)
    return weights


def _at(weights: Weights, part: float) -> int:
    """The index at which the running sum reaches `part` of the whole; its weight is not 0.

    Sums of blocks first: the running sum of a whole vocabulary takes five times as long.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64).cumsum()
    goal = min(part * sums[-1], np.nextafter(sums[-1], 0.0))
    block = int(np.searchsorted(sums, goal, side="right"))
    begin = block * _BLOCK
    inside = weights[begin : begin + _BLOCK].cumsum(dtype=np.float64)
    inside += sums[block - 1] if block else 0.0
    at = int(np.searchsorted(inside, goal, side="right"))
    # Both sums are rounded: between their ends the block's last possible token is meant.
    possible = np.flatnonzero(weights[begin : begin + _BLOCK])
    return begin + min(at, int(possible[-1]))


def _sound_peak(logits: Logits) -> tuple[int, float]:
    """The likeliest token and its logit. Raises NonFiniteLogits."""
    best = int(logits.argmax())
    peak = float(logits[best])
    # argmax stops at the first NaN, so the peak alone tells whether the row is sound.
    if not math.isfinite(peak):
        raise NonFiniteLogits(
            "the model computed a value that is not a number",
            hint="the model file is probably damaged: convert it again",
        )
    return best, peak


def _top(values: Weights, count: int) -> Ids:
    """Ids of the `count` largest values, largest first; of equals the first."""
    whole = len(values) // _BLOCK * _BLOCK
    if count < whole // _BLOCK:
        # The count-th largest block maximum cannot exceed the count-th largest value, so one pass
        # over the maxima leaves few candidates; partitioning the vocabulary costs ten times more.
        maxima = np.maximum.reduceat(values[:whole], np.arange(0, whole, _BLOCK))
        threshold = np.partition(maxima, -count)[-count]
        ids = np.flatnonzero(values >= threshold)
    else:
        ids = np.arange(len(values))
    return ids[np.argsort(-values[ids], kind="stable")[:count]]


def _nucleus(weights: Weights, top_p: float) -> Ids:
    """Ids of the fewest likeliest tokens whose weight reaches `top_p` of the whole."""
    goal = top_p * float(weights.sum(dtype=np.float64))
    order = _top(weights, _LIKELY)
    sums = weights[order].cumsum(dtype=np.float64)
    if sums[-1] >= goal:
        return order[: int(np.searchsorted(sums, goal)) + 1]
    # Sorting values alone is ten times as fast as sorting ids by them.
    ranked = np.sort(weights[weights > 0])[::-1]
    count = min(int(np.searchsorted(ranked.cumsum(dtype=np.float64), goal)) + 1, len(ranked))
    least = ranked[count - 1]
    more = np.flatnonzero(weights > least)
    return np.concatenate((more, np.flatnonzero(weights == least)[: count - len(more)]))
