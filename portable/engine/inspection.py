"""Whether a model was loaded where it should be: GPUs not used, claims not to be believed."""

from __future__ import annotations

from collections.abc import Sequence

from portable.engine import libllama
from portable.engine.config import EngineConfig
from portable.engine.findings import Finding, find
from portable.engine.gpus import look
from portable.engine.native import BEGINNING, list_devices
from portable.engine.places import Place, doubts


def examine(config: EngineConfig, places: Sequence[Place]) -> list[Finding]:
    """Nothing where the CPU alone was asked for. Takes some milliseconds."""
    if config.gpu_layers == 0 or config.devices == ():
        return []
    devices, backends = list_devices(config.rpc)
    facts = look(backends, devices, "".join(BEGINNING), libllama.folder())
    found = find(facts)
    if not any(place.layers for place in places if place.kind == "cpu"):
        found = [finding for finding in found if finding.code != "taken"]  # it was enough
    return [*found, *doubts(places, facts.nvidia.held_by(facts.pid))]
