"""What steps cost, as llama-bench measures them: reading and answering at a depth; ours and ggml's.

A step's own time is all of it that is not spent inside llama.cpp: planning, the batch, sampling,
text. The ends of answers are ignored, and prompts are random tokens, as llama-bench's are.
"""

from __future__ import annotations

import random
import statistics
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter

from portable.bench.machine import machine
from portable.bench.options import BenchOptions
from portable.bench.report import Machine
from portable.bench.run import Say
from portable.engine.config import EngineConfig
from portable.engine.engine import Engine
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams
from portable.errors import EngineError, UsageError
from portable.fit.prediction import Prediction, predict


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Tokens read and answered at each of the depths by one stream, and answered by a crowd.

    Depths are multiples of `prompt`, which is read in one step.
    """

    depths: tuple[int, ...] = (0, 2048)
    prompt: int = 512
    answer: int = 128
    crowd: int = 16
    crowd_answer: int = 32

    @property
    def context(self) -> int:
        """Tokens that must fit."""
        one = max(self.depths) + max(self.prompt, self.answer) + 2
        return max(one, self.crowd * (2 + self.crowd_answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Medians of the rounds. Rates are tokens a second of whole steps, `step` and `own` seconds.

    `prefill_rate` is None for a crowd, which reads almost nothing. What `portable fit` says is
    `predicted_`, of one stream.
    """

    streams: int
    depth: int
    prefill_rate: float | None
    decode_rate: float
    step: float
    own: float
    predicted_prefill_rate: float | None = None
    predicted_decode_rate: float | None = None

    @property
    def line(self) -> str:
        """For people."""
        read = f"reads {self.prefill_rate:.1f} tok/s, " if self.prefill_rate else ""
        return (
            f"{self.streams} at depth {self.depth}: {read}answers {self.decode_rate:.1f} tok/s; "
            f"a step {1000 * self.step:.2f} ms, of it outside llama.cpp "
            f"{1000 * self.own:.3f} ms ({self.own / self.step:.1%}){self._predicted}"
        )

    @property
    def _predicted(self) -> str:
        read, answered = self.predicted_prefill_rate, self.predicted_decode_rate
        if not read or not answered or not self.prefill_rate:
            return ""
        return (
            f"; predicted: reads {read:.1f} ({read / self.prefill_rate - 1:+.0%}), "
            f"answers {answered:.1f} ({answered / self.decode_rate - 1:+.0%})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The costs for one stream at each depth, then for the crowd."""

    model: str
    machine: Machine
    rounds: int
    costs: tuple[Cost, ...]

    def lines(self) -> str:
        """For people."""
        head = f"{self.model}: {self.machine.placement}, medians of {self.rounds}"
        return "\n".join([head, *(cost.line for cost in self.costs)])


def bench_steps(
    config: EngineConfig, options: BenchOptions, say: Say, shape: Shape | None = None
) -> Steps:
    """`options.requests` rounds in this process. Raises UsageError if the context is too short."""
    shape = shape or Shape()
    config = replace(
        config,
        prompt_cache=None,
        prefix_cache=False,
        speculate=False,
        draft=None,
        slots=shape.crowd,
        step_tokens=shape.prompt,
    )
    here = machine()
    say(f"loading {config.model.name}")
    with closing(_Endless(config)) as llama:
        if llama.context < shape.context:
            raise UsageError(
                f"the context holds {llama.context} tokens, these steps need {shape.context}",
                hint=f"--context {shape.context}",
            )
        bench = _Bench(llama, config, shape)
        bench.warm_up()
        made = [bench.costs() for _ in range(options.requests)]
        info = llama.info()
    here = replace(here, threads=info.threads, placement=info.placement)
    foreseen = predict(config, say)
    costs = tuple(_beside(_median(each), shape, foreseen) for each in zip(*made))
    return Steps(model=config.model.name, machine=here, rounds=options.requests, costs=costs)


def _beside(cost: Cost, shape: Shape, foreseen: Prediction | None) -> Cost:
    """With what was foreseen of one stream."""
    if not foreseen or cost.streams > 1:
        return cost
    return replace(
        cost,
        predicted_prefill_rate=shape.prompt / foreseen.prompt_seconds(shape.prompt, cost.depth),
        predicted_decode_rate=foreseen.decode_rate(cost.depth + shape.answer / 2),
    )


class _Endless(Llama):
    """A model that goes on until it is stopped."""

    def is_end(self, token: int) -> bool:
        return False


class _Bench:
    """One engine for all rounds: what one leaves in the cache is dropped by the next."""

    def __init__(self, llama: Llama, config: EngineConfig, shape: Shape) -> None:
        self._llama, self._shape = llama, shape
        self._engine = Engine(llama, config, threads=llama.spare_threads(config))
        self._random = random.Random(0)

    def warm_up(self) -> None:
        """Memory is touched and threads exist before anything is counted."""
        self._single(0)

    def costs(self) -> list[Cost]:
        """One round: one stream at each depth, then the crowd."""
        return [*(self._single(depth) for depth in self._shape.depths), self._crowd()]

    def _single(self, depth: int) -> Cost:
        """A prompt is read behind `depth` tokens, then another one is answered there."""
        prompt = self._shape.prompt
        seconds, _ = self._steps([depth + prompt], 1)[-1]
        answered = self._answers([depth + 1], self._shape.answer)
        return replace(answered, depth=depth, prefill_rate=prompt / seconds)

    def _crowd(self) -> Cost:
        return self._answers([2] * self._shape.crowd, self._shape.crowd_answer)

    def _answers(self, prompts: list[int], answer: int) -> Cost:
        """The first token comes with the prompt: `answer` more are counted."""
        steps = self._steps(prompts, answer + 1)[-answer:]
        whole, inside = (sum(step[at] for step in steps) for at in (0, 1))
        return Cost(
            streams=len(prompts),
            depth=0,
            prefill_rate=None,
            decode_rate=len(prompts) * answer / whole,
            step=whole / answer,
            own=(whole - inside) / answer,
        )

    def _steps(self, prompts: list[int], answer: int) -> list[tuple[float, float]]:
        """All steps until every prompt has its answer: seconds, and those inside llama.cpp."""
        engine, llama = self._engine, self._llama
        params = SamplingParams(temperature=0, max_tokens=answer)
        for number, size in enumerate(prompts):
            tokens = [self._random.randrange(llama.vocabulary) for _ in range(size)]
            engine.add(str(number), tokens, params)
        steps = []
        while engine.has_work:
            before, started = llama.native_seconds, perf_counter()
            deltas = engine.step()
            steps.append((perf_counter() - started, llama.native_seconds - before))
            if failed := next((delta.error for delta in deltas if delta.error), None):
                raise EngineError(failed[1])
        return steps


def _median(costs: tuple[Cost, ...]) -> Cost:
    """Of each figure the median of the rounds."""
    names = "decode_rate", "step", "own"
    middle = {name: statistics.median(getattr(c, name) for c in costs) for name in names}
    rates = [c.prefill_rate for c in costs if c.prefill_rate]
    return replace(costs[0], prefill_rate=statistics.median(rates) if rates else None, **middle)
