"""What a restart costs: the time to the first token of a long prefix, cold, and from the disk."""

from __future__ import annotations

import secrets
import statistics
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from portable.bench.answer import Sample
from portable.bench.local import LocalModel
from portable.bench.machine import machine
from portable.bench.options import BenchOptions
from portable.bench.report import Machine
from portable.bench.run import WARM_UP_TOKENS, Say
from portable.bench.workload import Message, Workload
from portable.engine.backend import ModelInfo
from portable.engine.config import EngineConfig
from portable.engine.service import Service
from portable.engine.worker import Streams
from portable.errors import EngineError, UsageError

_TOKENS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The same prefix before and after a restart; `cold` and `warm` are seconds.

    Of the `prompt_tokens` that were asked afterwards, `cached_tokens` came from the disk.
    """

    cold: float
    warm: float
    prompt_tokens: int
    cached_tokens: int

    @property
    def ratio(self) -> float:
        return self.warm / self.cold


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """`ratio` is the median of the rounds': the part of the cold time that is left."""

    model: str
    machine: Machine
    rounds: tuple[Round, ...]
    ratio: float

    def lines(self) -> str:
        """For people."""
        return "\n".join(
            [
                f"{self.model}: time to the first token before and after a restart",
                *(
                    f"{number}: {r.prompt_tokens} tokens, cold {r.cold:.3f} s; "
                    f"{r.cached_tokens} from the disk, warm {r.warm:.3f} s: {r.ratio:.3f}"
                    for number, r in enumerate(self.rounds, 1)
                ),
                f"median: {self.ratio:.3f} of the cold time",
            ]
        )


def bench_restart(config: EngineConfig, options: BenchOptions, say: Say) -> Restart:
    """`options.requests` rounds, each with a prefix and a folder of its own.

    What was saved lies in the system's page cache, as it does when a program is started again.
    Raises UsageError without a prompt cache, EngineError for a request that fails.
    """
    if config.prompt_cache is None:
        raise UsageError("there is nothing to measure without a prompt cache")
    here = machine()
    workload = Workload(options, secrets.randbelow(1_000_000))
    config.prompt_cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    rounds = []
    for number in range(1, options.requests + 1):
        with tempfile.TemporaryDirectory(dir=config.prompt_cache) as folder:
            alone = replace(config, prompt_cache=Path(folder))
            first, second, *_ = workload.level(number, 2)
            cold, info = _life(alone, workload, first)
            warm, _ = _life(alone, workload, second)
            rounds.append(_round(cold, warm))
            here = replace(here, threads=info.threads, placement=info.placement)
        say(f"round {number}: {rounds[-1].ratio:.3f}")
    ratio = statistics.median(r.ratio for r in rounds)
    return Restart(model=config.model.name, machine=here, rounds=tuple(rounds), ratio=ratio)


def _life(
    config: EngineConfig, workload: Workload, messages: list[Message]
) -> tuple[Sample, ModelInfo]:
    """One answer of a model that is loaded for it, and warmed up by something short."""
    streams = Streams()
    with closing(Service(config, streams)) as service:
        model = LocalModel(service, streams)
        model.ask("warm-up", workload.warm_up(), WARM_UP_TOKENS)
        sample = model.ask("prefix", messages, _TOKENS)
    if sample.error or not sample.first:
        raise EngineError(sample.error or "the answer is empty")
    return sample, service.info


def _round(cold: Sample, warm: Sample) -> Round:
    return Round(
        cold=cold.first or 0,
        warm=warm.first or 0,
        prompt_tokens=warm.prompt_tokens or 0,
        cached_tokens=warm.cached_tokens or 0,
    )
