"""Samples -> the figures of a level and a report, all plain data; knows no clock and no table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from portable.bench.answer import Sample
from portable.bench.options import BenchOptions, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the benchmark ran: the server's machine too, if it is on loopback.

    `cores` are logical ones that this process may use, `load` the average of the last minute before
    the start. `threads` and `placement` are told by a local model only.
    """

    system: str
    processor: str
    cores: int
    physical_cores: int | None
    load: float | None
    python: str
    threads: int | None = None
    placement: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """So many clients at once. Medians are over the requests that were answered.

    `ok` + `errors` = `requests`; `error` is the first message. `tokens` and `throughput` (tokens a
    second of the whole level, prefill included) count answered requests only. `decode_rate` is of
    one stream after its first token. `prefill_rate` is estimated for a single client only.
    `counted` answers came without usage: their tokens are pieces of text. `ended_early` answers
    have fewer tokens than were asked for.
    """

    clients: int
    requests: int
    ok: int
    errors: int
    error: str | None
    tokens: int
    seconds: float
    throughput: float
    first_median: float | None
    first_p95: float | None
    first_worst: float | None
    decode_rate: float | None
    prefill_rate: float | None
    prompt_tokens: float | None
    cached_tokens: float | None
    counted: int
    ended_early: int

    @property
    def name(self) -> str:
        return "1 client" if self.clients == 1 else f"{self.clients} clients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What `portable fit` says of the first level with a single client: its prompts' median length,
    the seconds to the first token and the tokens a second of the answer."""

    prompt_tokens: float
    first: float
    decode_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run. `target` is a server's address or a model file's name, `started` is UTC, ISO 8601.

    `warm_up_error` is set if the uncounted first request failed: the first level may then include
    what it was meant to keep out.
    """

    target: str
    model: str
    started: str
    version: str
    prompt: Prompt
    max_tokens: int
    seed: int
    machine: Machine
    levels: tuple[Level, ...]
    warm_up_error: str | None = None
    predicted: Predicted | None = None

    @property
    def alone(self) -> Level | None:
        """The first level with a single client."""
        return next((level for level in self.levels if level.clients == 1), None)

    @property
    def errors(self) -> int:
        return sum(level.errors for level in self.levels)


def level(clients: int, samples: list[Sample], seconds: float, options: BenchOptions) -> Level:
    """The figures of `samples`, which took `seconds` together."""
    good = [sample for sample in samples if sample.error is None]
    bad = [sample.error for sample in samples if sample.error is not None]
    tokens = sum(sample.tokens for sample in good)
    first = sorted(sample.first for sample in good if sample.first is not None)
    # All but the first of `shared` find most of their prompt in the cache.
    alone = clients == 1 and options.prompt != "shared"
    return Level(
        clients=clients,
        requests=len(samples),
        ok=len(good),
        errors=len(bad),
        error=bad[0] if bad else None,
        tokens=tokens,
        seconds=seconds,
        throughput=tokens / seconds if seconds > 0 else 0.0,
        first_median=median(first),
        first_p95=percentile(first, 95),
        first_worst=first[-1] if first else None,
        decode_rate=median(sample.decode_rate for sample in good),
        prefill_rate=median(sample.prefill_rate for sample in good) if alone else None,
        prompt_tokens=median(sample.prompt_tokens for sample in good),
        cached_tokens=median(sample.cached_tokens for sample in good),
        counted=sum(sample.counted for sample in good),
        ended_early=sum(sample.tokens < options.max_tokens for sample in good),
    )


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return float(statistics.median(known)) if known else None


def percentile(ordered: list[float], percent: int) -> float | None:
    """Nearest rank: a value that was really measured. Under 20 values p95 is the worst."""
    return ordered[math.ceil(percent * len(ordered) / 100) - 1] if ordered else None
