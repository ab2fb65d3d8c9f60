"""The speed of one file on this machine's CPU, told before or beside what is measured."""

from __future__ import annotations

from dataclasses import dataclass

from portable import gguf
from portable.engine.config import EngineConfig
from portable.engine.cores import default_threads
from portable.engine.dry_run import devices
from portable.engine.offload.plan import plan
from portable.engine.offload.shape import shape_of
from portable.engine.offload.wish import wish_of
from portable.errors import NotEnoughMemory
from portable.fit.machine import Machine, Say
from portable.fit.speed import Times, decode_seconds, operations, prompt_seconds
from portable.fit.work import Work, work_of


@dataclass(frozen=True)
class Prediction:
    """For one text at a time."""

    work: Work
    times: Times
    kv_type: str

    def decode_rate(self, depth: float) -> float:
        """Tokens a second behind so many others."""
        return 1 / decode_seconds(self.work, self.times, self.kv_type, depth)

    def prompt_seconds(self, tokens: float, depth: float = 0) -> float:
        """Until so many are read behind `depth` others, and the next one is there."""
        return prompt_seconds(self.work, self.times, self.kv_type, tokens, depth)


def predict(config: EngineConfig, say: Say) -> Prediction | None:
    """None where layers lie on other devices, whose speed is not known, and for an encoder.

    Raises ModelFileError and EngineError.
    """
    heads = gguf.read_all(config.model)
    shape = shape_of(heads)
    if config.rpc or not any(layer.cache or layer.state for layer in shape.layers):
        return None
    here, _ = devices()
    try:
        made = plan(shape, here, wish_of(config))
    except NotEnoughMemory:
        return None
    if made.gpu_layers:
        return None
    windows = [layer.window for layer in shape.layers if layer.cache]
    work = work_of(heads, windows, encoder=False)
    machine = Machine(config.threads or default_threads())
    times = machine.times(operations(work, made.kv_type), say)
    return Prediction(work, times, made.kv_type)
