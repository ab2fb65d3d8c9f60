"""What both kinds of target share: the run's number, its levels said aloud, the finished report."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from portable import __version__
from portable.bench.options import BenchOptions
from portable.bench.report import Level, Machine, Report
from portable.bench.workload import Workload

Say = Callable[[str], None]

WARM_UP_TOKENS = 8


@dataclass(slots=True)
class Run:
    """One benchmark while it runs."""

    options: BenchOptions
    say: Say
    target: str
    model: str
    machine: Machine
    workload: Workload = field(init=False)
    warm_up_error: str | None = None
    _levels: list[Level] = field(default_factory=list)
    _started: str = field(init=False)

    def __post_init__(self) -> None:
        self.workload = Workload(self.options, secrets.randbelow(1_000_000))
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def warmed_up(self, error: str | None) -> None:
        self.warm_up_error = error
        if error:
            self.say(f"the warm-up request failed: {error}")

    def add(self, level: Level) -> None:
        """Keep a finished level and say what it brought."""
        self._levels.append(level)
        failed = f", {level.errors} failed: {level.error}" if level.errors else ""
        self.say(
            f"{level.name}: {level.tokens} tokens in {level.seconds:.1f} s, "
            f"{level.throughput:.1f} tok/s{failed}"
        )

    def report(self) -> Report:
        return Report(
            target=self.target,
            model=self.model,
            started=self._started,
            version=__version__,
            prompt=self.options.prompt,
            max_tokens=self.options.max_tokens,
            seed=self.options.seed,
            machine=self.machine,
            levels=tuple(self._levels),
            warm_up_error=self.warm_up_error,
        )
