"""What the server counts, as Prometheus reads it, and the totals of the statistics line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from portable.engine.sequence import Usage
from portable.server.fleet import Fleet
from portable.server.served import Served

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Counters and histograms of one server; each server has its own registry."""

    def __init__(self, fleet: Fleet) -> None:
        self.registry = CollectorRegistry()
        self.totals = Totals()
        self._requests = Counter(
            "portable_requests",
            "Requests answered.",
            ("route", "status", "model"),
            registry=self.registry,
        )
        self._seconds = self._histogram("portable_request_seconds", "Until the last byte.", "route")
        self._first = self._histogram("portable_ttft_seconds", "Until the first token.", "model")
        self._gap = Histogram(
            "portable_inter_token_seconds",
            "Between two tokens of one answer.",
            ("model",),
            buckets=_GAPS,
            registry=self.registry,
        )
        self._prompt = Counter(
            "portable_prompt_tokens",
            "Tokens of prompts, computed and found in the cache.",
            ("model", "cached"),
            registry=self.registry,
        )
        self._generated = Counter(
            "portable_generated_tokens", "Tokens of answers.", ("model",), registry=self.registry
        )
        self.registry.register(_Gauges(fleet))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def answered(self, route: str, status: int, model: str, seconds: float) -> None:
        """A request came to its end; `status` 499: its client left."""
        self._requests.labels(route, str(status), model).inc()
        self._seconds.labels(route).observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        self._first.labels(model).observe(seconds)

    def next_token(self, model: str, seconds: float) -> None:
        self._gap.labels(model).observe(seconds)

    def spent(self, model: str, used: Usage) -> None:
        """One answer came to its end."""
        self._prompt.labels(model, "false").inc(used.prompt_tokens - used.cached_tokens)
        self._prompt.labels(model, "true").inc(used.cached_tokens)
        self._generated.labels(model).inc(used.completion_tokens)
        self.totals.add(used)

    def _histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, (label,), buckets=_SECONDS, registry=self.registry)


class Totals:
    """What was done since the last statistics line, with the keys of ms-swift's InferStats."""

    def __init__(self) -> None:
        self._samples = self._prompt = self._generated = 0
        self._since = time.perf_counter()

    def add(self, used: Usage) -> None:
        self._samples += 1
        self._prompt += used.prompt_tokens
        self._generated += used.completion_tokens

    def take(self) -> dict[str, float] | None:
        """The totals, which then begin anew; None if nothing was answered."""
        samples, seconds = self._samples, time.perf_counter() - self._since
        done = {
            "num_prompt_tokens": self._prompt,
            "num_generated_tokens": self._generated,
            "num_samples": samples,
            "runtime": round(seconds, 3),
            "samples/s": round(samples / seconds, 3),
            "tokens/s": round(self._generated / seconds, 3),
        }
        self.__init__()  # type: ignore[misc]
        return done if samples else None


class _Gauges(Collector):
    """How the models are at the moment of the scrape. Wakes none."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        for name, text, value in _GAUGES:
            family = GaugeMetricFamily(f"portable_{name}", text, labels=["model"])
            for served in self._fleet.models:
                family.add_metric([served.id], value(served))
            yield family
        yield self._memory()

    def _memory(self) -> Metric:
        family = GaugeMetricFamily(
            "portable_vram_used_bytes",
            "What a model takes on a device.",
            labels=["model", "device"],
        )
        for served in self._fleet.models:
            for device, size in served.memory.items():
                family.add_metric([served.id, device], size)
        return family


def _resident(served: Served) -> float:
    """Bytes of the model's process that are in memory."""
    try:
        return float(psutil.Process(pid).memory_info().rss) if (pid := served.process.pid) else 0.0
    except psutil.Error:
        return 0.0


def _offloaded(served: Served) -> float:
    info = served.process.info
    return info.offloaded if info and served.is_loaded else 0


def _busy(served: Served) -> float:
    return min(served.process.running, served.process.config.slots)


def _used(served: Served) -> float:
    info, beat = served.process.info, served.process.beat
    return beat.cells / info.context if info and beat and served.is_loaded else 0.0


_GAUGES = (
    ("model_loaded", "1 while the model can answer.", lambda served: float(served.is_loaded)),
    ("queue_depth", "Requests that wait for the model.", lambda served: served.process.waiting),
    ("slots_busy", "Requests that are being answered.", _busy),
    ("kv_used_ratio", "Share of the context that is in use.", _used),
    ("model_restarts", "Deaths of the model's process.", lambda served: served.process.restarts),
    ("rss_bytes", "Memory of the model's process.", _resident),
    ("offloaded_layers", "Layers on a GPU.", _offloaded),
)
