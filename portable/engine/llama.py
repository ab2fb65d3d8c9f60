"""A model at work, through llama_cpp's low-level functions. Every call is guarded here.

Knows nothing of requests: it decodes batches, and keeps, copies and drops cells. Which calls can
kill the process, and with what arguments, was measured; each guard names its reason.
"""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from portable.engine import state as states
from portable.engine.backend import Aborted, CacheFull, Loading, ModelInfo
from portable.engine.batch import Batch
from portable.engine.config import EngineConfig, Rope
from portable.engine.fallback import Fallback
from portable.engine.machine import available_memory
from portable.engine.native import NO_MEMORY, SMALLER, last_words, lib
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.engine.weights import Weights
from portable.errors import EngineError, OutOfMemory, UnsupportedModel

if TYPE_CHECKING:
    from portable.engine.backend import State

# Of the free memory, for prefixes that cannot be shortened.
_SHARE_FOR_MARKS = 10

# ggml_type.
_KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}


class Llama(Weights):
    """A GGUF file, loaded, with one unified KV cache. Implements `Backend`.

    `watch` is ggml's eval callback: it is asked about each tensor that is computed.
    Raises ModelFileError, UnsupportedModel, NotEnoughMemory or EngineError while loading.
    """

    def __init__(
        self,
        config: EngineConfig,
        loading: Loading | None = None,
        watch: Any = None,
        beside: Weights | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self._watch = watch or lib.ggml_backend_sched_eval_callback()
        super().__init__(config, loading, beside, fallback)

    def _open(self, config: EngineConfig, loading: Loading | None) -> None:
        super()._open(config, loading)
        self._context = self._make_context(config)
        self._memory = lib.llama_get_memory(self._context)
        if not self._memory or lib.llama_model_has_encoder(self._model):
            raise UnsupportedModel(
                f"{config.model.name} is an encoder: it makes embeddings, not text",
                hint="choose a model that generates text",
            )
        self.cells = lib.llama_n_ctx(self._context)
        self.context = lib.llama_n_ctx_seq(self._context)
        self._apart = config.deterministic
        self.slots = config.slots
        # A recurrent state knows its last token only.
        window = lib.llama_model_n_swa(self._model) if self.can_keep_part else 1
        self.window = window or self.cells
        marked = window and not config.deterministic
        self.mark_bytes = available_memory() // _SHARE_FOR_MARKS if marked else 0
        self._batch = Batch(lib.llama_n_batch(self._context), config.rows)
        self.native_seconds = 0.0  # inside llama.cpp, for steps with logits
        self._viewed = 0, 0
        self._logits = np.empty((0, self.vocabulary), np.float32)
        if self.plan.gpu_layers:  # where memory may run out in the first step
            first = Sequence("", [0], SamplingParams(), slot=0)
            self.decode([Slice(first, 0, 1)])
            self.keep(0, 0)
        self._loaded()

    # --- decoding ---

    def decode(self, slices: list[Slice]) -> npt.NDArray[np.float32]:
        if self._apart and len(slices) > 1:
            # How a row is rounded depends on the rows beside it.
            return np.concatenate([self._decode([part]).copy() for part in slices])
        return self._decode(slices)

    def _decode(self, slices: list[Slice]) -> npt.NDArray[np.float32]:
        rows = self._batch.fill(slices)
        started = time.perf_counter()
        code = lib.llama_decode(self._context, self._batch.struct)
        if code == 1:
            raise CacheFull
        if code == 2:
            self.clear_abort()
            raise Aborted
        if code == NO_MEMORY:
            raise OutOfMemory("memory ran out in the midst of a step", hint=SMALLER)
        if code:
            raise EngineError(f"llama.cpp could not decode (code {code})", hint=last_words())
        if not rows:
            return np.empty((0, self.vocabulary), np.float32)
        logits = lib.llama_get_logits(self._context)  # waits for a GPU
        self.native_seconds += time.perf_counter() - started
        if not logits:  # a ctypes NULL is falsy, never None
            raise EngineError("llama.cpp returned no logits")
        return self._view(ctypes.addressof(logits.contents), rows)

    def _view(self, address: int, rows: int) -> npt.NDArray[np.float32]:
        """The logits where they lie; the next step's mostly lie there, too."""
        if (address, rows) != self._viewed:
            values = (ctypes.c_float * (rows * self.vocabulary)).from_address(address)
            self._logits = np.frombuffer(values, np.float32).reshape(rows, -1)
            self._viewed = address, rows
        return self._logits

    def use_threads(self, count: int) -> None:
        lib.llama_set_n_threads(self._context, count, count)

    def keep(self, slot: int, count: int) -> None:
        self._check_slot(slot)
        if not lib.llama_memory_seq_rm(self._memory, slot, count, -1):
            raise EngineError("llama.cpp could not drop a part of its cache")

    def copy(self, source: int, slot: int, count: int) -> None:
        self._check_slot(source)
        self._check_slot(slot)
        if self._apart:  # cells of their own, which llama.cpp does not share in part
            self._copy_state(source, slot)
            self.keep(slot, count)
        else:
            lib.llama_memory_seq_cp(self._memory, source, slot, 0, count)

    def _copy_state(self, source: int, slot: int) -> None:
        held = lib.llama_memory_seq_pos_max(self._memory, source) + 1
        state = states.save(self._context, source, available_memory() // 2)
        if state is None or not states.load(self._context, slot, state, held):
            raise EngineError("llama.cpp could not copy a part of its cache")

    def is_intact(self, slot: int, count: int) -> bool:
        # A sliding window gives away cells that the sequence itself no longer looks at.
        self._check_slot(slot)
        first = lib.llama_memory_seq_pos_min(self._memory, slot)
        return bool(0 <= first <= max(0, count - self.window))

    def save_part(self, slot: int, most: int) -> State | None:
        self._check_slot(slot)
        return states.save(self._context, slot, min(most, available_memory() // 2), part=True)

    def load_part(self, slot: int, count: int, part: State) -> bool:
        self._check_slot(slot)
        return states.load_part(self._context, slot, part, count)

    def save_state(
        self, slot: int, count: int, most: int, part: State | None = None
    ) -> State | None:
        self._check_slot(slot)
        # llama.cpp saves whole sequences: one that no slot uses shares the cells for that time.
        lib.llama_memory_seq_cp(self._memory, slot, self.slots, 0, count)
        try:
            if part is not None and not states.load_part(self._context, self.slots, part, count):
                return None
            return states.save(self._context, self.slots, min(most, available_memory() // 2))
        finally:
            lib.llama_memory_seq_rm(self._memory, self.slots, 0, -1)

    def load_state(self, slot: int, count: int, state: State) -> bool:
        self._check_slot(slot)
        return states.load(self._context, slot, state, count)

    # --- what it is ---

    def identity(self, config: EngineConfig) -> bytes:
        """What a saved state depends on, in 32 bytes. Raises ModelFileError and OSError."""
        # Of some models the context's length chooses the rope's factors.
        flash = self._flash_attention(config)
        stretched = [config.rope] if config.rope != Rope() else []
        return states.identity(config, self.plan.kv_type, flash, self.context, *stretched)

    def info(self) -> ModelInfo:
        return self.describe(self.context)

    # --- loading ---

    def _make_context(self, config: EngineConfig) -> lib.llama_context_p:
        # In cells of its own a sequence lies as if it were alone, and sums add up in one order.
        apart = config.slots if config.deterministic else 1
        held = self.plan.shares[-1]
        self.claim(held.cache + held.compute)
        params = self.context_params(config)
        params.kv_unified = not config.deterministic
        params.n_ctx = self.plan.context * apart
        params.n_batch = params.n_ubatch = config.step_tokens + config.slots
        params.n_seq_max = config.slots + config.keeps_prompts  # one for `save_state`
        # Room for logits of every token would take hundreds of megabytes.
        params.n_outputs_max = max(config.rows, params.n_seq_max)
        params.flash_attn_type = self._flash_attention(config)
        params.cb_eval = self._watch
        params.type_k = params.type_v = _KV_TYPES[self.plan.kv_type]
        return self.open_context(params)

    def _flash_attention(self, config: EngineConfig) -> int:
        if self.plan.kv_type != "f16":
            return 1  # LLAMA_FLASH_ATTN_TYPE_ENABLED: without it the values stay f16
        wanted = config.flash_attention
        # Without it a decode also reads the cells of idle prefixes: 4,096 of them cost more than
        # half its speed here.
        if wanted == "auto" and not config.deterministic:
            return -1  # LLAMA_FLASH_ATTN_TYPE_AUTO
        return int(wanted == "on")

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:  # a bad sequence id aborts the process
            raise EngineError(f"slot {slot} does not exist")
