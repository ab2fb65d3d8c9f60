"""A context that makes vectors, through llama_cpp. Every call is guarded here.

A causal model may read a text in several batches. Only its last token needs an output then, but
for the mean, which is taken here: outputs are a row of logits each, and cost more than the layers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from portable.engine.backend import Aborted
from portable.engine.batch import Batch
from portable.engine.config import EngineConfig
from portable.engine.embedding.embedder import Part
from portable.engine.embedding.kind import kind_of
from portable.engine.native import NO_MEMORY, SMALLER, last_words, lib
from portable.engine.weights import Weights
from portable.errors import EngineError, OutOfMemory, UnsupportedModel

_TYPES = {"mean": 1, "cls": 2, "last": 3, "rank": 4}
_NONE = 0
_SLOTS = 64
_BATCH = 512  # tokens: attention between the texts of a larger batch costs more than it saves
_MEAN_BATCH = 128  # tokens with a row of logits each: 78 MB where the vocabulary has 152,000
# Without flash attention the scores of longer texts take too much memory.
_LONG = 1024

Vectors = npt.NDArray[np.float32]


class Pooled:
    """Implements `Encoder`. `pooling` says how tokens become a vector; `rank` makes scores.

    Raises NotEnoughMemory, UnsupportedModel or EngineError.
    """

    def __init__(self, weights: Weights, config: EngineConfig) -> None:
        architecture = weights.metadata("general.architecture")
        self.pooling = kind_of(config).pooling
        self.whole = weights.metadata(f"{architecture}.attention.causal") == "false"
        self.vocabulary = weights.vocabulary
        self.width = weights.labels if self.pooling == "rank" else weights.width
        self.slots = _SLOTS if weights.can_keep_part else 1
        self.context = self._fitting(weights, config)
        self.weights = weights
        self._sums: dict[int, Vectors] = {}
        self._context = weights.open_context(self._params(weights, config))
        self._memory = lib.llama_get_memory(self._context)
        self.cells = lib.llama_n_ctx(self._context)
        size = lib.llama_n_batch(self._context)
        self._batch = Batch(size, size)
        self.batch = min(size, _BATCH)
        causal = bool(lib.llama_get_causal_attn(self._context))
        if causal == self.whole or (causal and not self._memory):
            raise UnsupportedModel("llama.cpp reads this model otherwise than its file says")
        if causal and self.pooling == "cls":
            raise UnsupportedModel("the first token of this model knows nothing of the others")

    def use_threads(self, count: int) -> None:
        lib.llama_set_n_threads(self._context, count, count)

    def encode(self, parts: list[Part]) -> Vectors:
        for part in parts:
            self._check_slot(part.slot)
        if self.whole:
            return self._encode_whole(parts)
        read = self._encode_sums if self.pooling == "mean" else self._encode_last
        vectors = read(parts)
        for part in parts:
            if part.ends:
                self.drop(part.slot)
        return vectors

    def drop(self, slot: int) -> None:
        self._check_slot(slot)
        self._sums.pop(slot, None)
        if self._memory:
            lib.llama_memory_seq_rm(self._memory, slot, 0, -1)

    # --- ways to read ---

    def _encode_whole(self, parts: list[Part]) -> Vectors:
        self._batch.clear()
        for part in parts:
            self._batch.append(part.slot, 0, part.tokens, len(part.tokens))
        self._decode()
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        return self._pooled(parts)

    def _encode_last(self, parts: list[Part]) -> Vectors:
        """All tokens without an output, then the last ones with theirs."""
        self._batch.clear()
        for part in parts:
            self._batch.append(part.slot, part.start, part.tokens[: -1 if part.ends else None], 0)
        lib.llama_set_embeddings(self._context, False)
        self._decode()
        ends = [part for part in parts if part.ends]
        self._batch.clear()
        for part in ends:
            at = part.start + len(part.tokens) - 1
            self._batch.append(part.slot, at, part.tokens[-1:], 1)
        lib.llama_set_embeddings(self._context, True)
        self._decode()
        return self._pooled(ends)

    def _encode_sums(self, parts: list[Part]) -> Vectors:
        self._batch.clear()
        for part in parts:
            self._batch.append(part.slot, part.start, part.tokens, len(part.tokens))
        self._decode()
        found = lib.llama_get_embeddings(self._context)
        if not found:  # a ctypes NULL is falsy, never None
            raise EngineError("llama.cpp returned no embeddings")
        rows = np.ctypeslib.as_array(found, (self._batch.struct.n_tokens, self.width))
        vectors, at = [], 0
        for part in parts:
            total = rows[at : at + len(part.tokens)].sum(axis=0) + self._sums.pop(part.slot, 0)
            at += len(part.tokens)
            if part.ends:
                vectors.append(total / (part.start + len(part.tokens)))
            else:
                self._sums[part.slot] = total
        return np.array(vectors, np.float32)

    def _decode(self) -> None:
        if not self._batch.struct.n_tokens:
            return
        code = lib.llama_decode(self._context, self._batch.struct)
        if code == 2:
            self.weights.clear_abort()
            raise Aborted
        if code == NO_MEMORY:
            self.weights.fallback.end()  # nobody has a part of an answer: the next one answers
            raise OutOfMemory("memory ran out while texts were read", hint=SMALLER)
        if code:
            raise EngineError(f"llama.cpp could not encode (code {code})", hint=last_words())

    def _pooled(self, parts: list[Part]) -> Vectors:
        vectors = np.empty((len(parts), self.width), np.float32)
        for row, part in zip(vectors, parts):
            found = lib.llama_get_embeddings_seq(self._context, part.slot)
            if not found:
                raise EngineError("llama.cpp returned no embedding")
            row[:] = np.ctypeslib.as_array(found, (self.width,))
        return vectors

    # --- making it ---

    def _fitting(self, weights: Weights, config: EngineConfig) -> int:
        """Tokens of the longest text. Positions that a model was not trained on may not exist."""
        wanted = min(config.context or config.default_context, weights.trained_context)
        a_token = 4 * self.vocabulary if self.whole else weights.cache_bytes(1, 16)
        if not config.context:
            wanted = max(min(wanted, _BATCH), min(wanted, weights.room // 2 // max(1, a_token)))
        rows = 0 if self.whole else _MEAN_BATCH if self.pooling == "mean" else self.slots
        weights.claim(wanted * a_token + 8 * rows * self.vocabulary)
        return wanted

    def _params(self, weights: Weights, config: EngineConfig) -> lib.llama_context_params:
        params = weights.context_params(config)
        params.embeddings = True
        params.n_seq_max = self.slots
        if self.whole:
            params.n_ctx = params.n_batch = params.n_ubatch = max(self.context, _BATCH)
            params.pooling_type = _TYPES[self.pooling]
        elif self.pooling == "mean":
            params.n_ctx, params.pooling_type = self.context, _NONE
            params.n_batch = params.n_ubatch = _MEAN_BATCH
        else:
            params.n_ctx, params.pooling_type = self.context, _TYPES[self.pooling]
            params.n_batch = params.n_ubatch = max(config.step_tokens, self.slots)
            params.n_outputs_max = self.slots
        long = self.whole and self.context > _LONG
        auto = -1 if weights.plan.gpu_layers else int(long)
        params.flash_attn_type = {"auto": auto, "on": 1, "off": 0}[config.flash_attention]
        return params

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:  # a bad sequence id aborts the process
            raise EngineError(f"slot {slot} does not exist")
