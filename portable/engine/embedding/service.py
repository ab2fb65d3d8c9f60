"""A loaded model that makes vectors or scores and no text."""

from __future__ import annotations

from portable.engine.backend import Loading
from portable.engine.config import EngineConfig
from portable.engine.embedding.embedder import Embedder
from portable.engine.embedding.kind import kind_of
from portable.engine.embedding.pooled import Pooled
from portable.engine.embedding.worker import at_once
from portable.engine.fallback import Fallback, stepping_down
from portable.engine.inspection import examine
from portable.engine.weights import Weights


class EmbeddingService:
    """Loads a model in its constructor; raises what `Weights` and `Pooled` raise."""

    template = ""
    turn = staticmethod(at_once)
    prompter = None

    def __init__(self, config: EngineConfig, loading: Loading | None = None) -> None:
        def pooled(fallback: Fallback) -> Pooled:
            weights = Weights(config, loading, fallback=fallback)
            with weights.undone():
                return Pooled(weights, config)

        self._pooled = stepping_down(config, pooled)
        self.weights = self._pooled.weights
        self._seconds = config.step_seconds
        self.threads = self.weights.spare_threads(config)
        self.info = self.weights.describe(self._pooled.context, kind_of(config).task)
        self.findings = examine(config, self.info.places)
        self.offload_reason = self.weights.plan.reason

    def embedder(self) -> Embedder:
        return Embedder(self._pooled, self._seconds, self.threads)

    def close(self) -> None:
        self.weights.close()
