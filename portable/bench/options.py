"""Every default of a benchmark, once, checked when made; knows nothing of what is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from portable.errors import UsageError

Prompt = Literal["short", "long", "shared", "mixed", "restart", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to ask. Each number in `clients` is one level: so many clients ask at the same time.

    A level has `requests` requests, or one a client if that is more. `model` None takes the first
    that the server lists. `timeout` is in seconds and holds for one whole answer of a server.
    Raises UsageError for a value out of range.
    """

    clients: tuple[int, ...] = (1, 4, 8)
    requests: int = 8
    max_tokens: int = 64
    prompt: Prompt = "short"
    api_key: str | None = None
    model: str | None = None
    seed: int = 0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if not self.clients:
            raise UsageError("no number of clients is given", hint="such as --clients 1,4,8")
        for count in self.clients:
            _within("clients", count, 1, 256)
        _within("requests", self.requests, 1, 100_000)
        _within("max tokens", self.max_tokens, 1, 1 << 24)
        if self.prompt not in get_args(Prompt):
            raise UsageError(
                f"prompt is {self.prompt!r}", hint="short, long, shared, mixed, restart or steps"
            )
        if not 0 < self.timeout < math.inf:
            raise UsageError(f"timeout is {self.timeout}", hint="a number of seconds over 0")

    def requests_at(self, clients: int) -> int:
        """Requests of the level with so many clients: none of them stays idle."""
        return max(self.requests, clients)


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}", hint=f"a number from {low} to {high}")
