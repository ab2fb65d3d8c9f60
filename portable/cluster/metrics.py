"""The metrics of all replicas as one page, each sample with the label `replica`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Said(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(told: Mapping[str, str]) -> bytes:
    """What each replica, by its id, tells in Prometheus' text format; in the same format."""
    families: dict[str, Metric] = {}
    for replica, text in told.items():
        for one in text_string_to_metric_families(text):
            family = Metric(one.name, one.documentation, one.type)
            family = families.setdefault(one.name, family)
            for sample in one.samples:
                labels = sample.labels | {"replica": replica}
                family.add_sample(sample.name, labels, sample.value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Said(families.values()))
    return generate_latest(registry)
