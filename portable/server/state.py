"""What every endpoint needs, made once for one application."""

from __future__ import annotations

from dataclasses import dataclass, field

from portable.server.config import ServerConfig
from portable.server.fleet import Fleet
from portable.server.kept import ResponseStore
from portable.server.metrics import Metrics


@dataclass(frozen=True, slots=True)
class State:
    config: ServerConfig
    fleet: Fleet
    metrics: Metrics
    responses: ResponseStore = field(default_factory=ResponseStore)
