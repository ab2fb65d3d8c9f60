"""A model at work, through llama_cpp's low-level functions. Every call is guarded here.

Knows nothing of requests: it decodes batches, and keeps, copies and drops cells. Which calls can
kill the process, and with what arguments, was measured; each guard names its reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from portable import gguf
from portable.engine import state as states
from portable.engine.adapter import check_adapter, load_adapter
from portable.engine.backend import Aborted, CacheFull, Loading, ModelInfo
from portable.engine.config import EngineConfig
from portable.engine.machine import available_memory, check_file, default_threads
from portable.engine.native import LOG, last_words, lib, list_devices, load_model, start
from portable.engine.offload import ALL_LAYERS, check_memory, plan
from portable.engine.sequence import Slice
from portable.engine.vocabulary import Vocabulary
from portable.errors import EngineError, NotEnoughMemory, UnsupportedModel

if TYPE_CHECKING:
    from portable.engine.backend import State

_SAMPLING_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}

# Of the free memory, for prefixes that cannot be shortened.
_SHARE_FOR_MARKS = 10

# ggml_type, and bits of a value.
_KV_TYPES = {"f16": (1, 16), "q8_0": (8, 8.5), "q4_0": (2, 4.5)}


class Llama(Vocabulary):
    """A GGUF file, loaded, with one unified KV cache. Implements `Backend`.

    `watch` is ggml's eval callback: it is asked about each tensor that is computed.
    Raises ModelFileError, UnsupportedModel, NotEnoughMemory or EngineError while loading.
    """

    def __init__(
        self, config: EngineConfig, loading: Loading | None = None, watch: Any = None
    ) -> None:
        started = time.perf_counter()
        for file in filter(None, (config.model, config.adapter)):
            check_file(file)
        start()
        self.devices, backends = list_devices()
        self.offload = plan(
            config.gpu_layers, self.devices, backends, os.environ.get("CUDA_VISIBLE_DEVICES")
        )
        self.threads = config.threads or default_threads()
        self._stop = contextlib.ExitStack()
        super().__init__(self._load_model(config, loading))
        self._adapter = self._load_adapter(config)
        self._adapter_name = config.adapter.name if config.adapter else ""
        self._abort_flag = ctypes.create_string_buffer(2)
        self._watch = watch or lib.ggml_backend_sched_eval_callback()
        self._context = self._make_context(config)
        self._memory = lib.llama_get_memory(self._context)
        if not self._memory or lib.llama_model_has_encoder(self._model):
            raise UnsupportedModel(
                f"{config.model.name} is an encoder: it makes embeddings, not text",
                hint="choose a model that generates text",
            )
        self.cells = self.context = lib.llama_n_ctx(self._context)
        self.slots = config.slots
        self.can_keep_part = not (
            lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        )
        # A recurrent state knows its last token only.
        window = lib.llama_model_n_swa(self._model) if self.can_keep_part else 1
        self.window = window or self.cells
        self.mark_bytes = available_memory() // _SHARE_FOR_MARKS if window else 0
        self._batch = _Batch(lib.llama_n_batch(self._context))
        self.load_seconds = time.perf_counter() - started

    # --- decoding ---

    def decode(self, slices: list[Slice]) -> npt.NDArray[np.float32]:
        rows = self._batch.fill(slices)
        code = lib.llama_decode(self._context, self._batch.struct)
        if code == 1:
            raise CacheFull
        if code == 2:
            self._abort_flag[0] = b"\0"
            raise Aborted
        if code:
            raise EngineError(f"llama.cpp could not decode (code {code})", hint=last_words())
        if not rows:
            return np.empty((0, self.vocabulary), np.float32)
        logits = lib.llama_get_logits(self._context)
        if not logits:  # a ctypes NULL is falsy, never None
            raise EngineError("llama.cpp returned no logits")
        return np.ctypeslib.as_array(logits, (rows, self.vocabulary))

    def keep(self, slot: int, count: int) -> None:
        self._check_slot(slot)
        if not lib.llama_memory_seq_rm(self._memory, slot, count, -1):
            raise EngineError("llama.cpp could not drop a part of its cache")

    def copy(self, source: int, slot: int, count: int) -> None:
        self._check_slot(source)
        self._check_slot(slot)
        lib.llama_memory_seq_cp(self._memory, source, slot, 0, count)

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

    def abort(self) -> None:
        self._abort_flag[0] = b"\1"

    def close(self) -> None:
        self._stop.close()

    # --- what it is ---

    def identity(self, config: EngineConfig) -> bytes:
        """What a saved state depends on, in 32 bytes. Raises ModelFileError and OSError."""
        # Of some models the context's length chooses the rope's factors.
        flash = self._flash_attention(config)
        return states.identity(config, config.kv_type, flash, self.context)

    def info(self) -> ModelInfo:
        description = ctypes.create_string_buffer(128)
        lib.llama_model_desc(self._model, description, len(description))
        layers, total = self._offloaded()
        return ModelInfo(
            name=self.metadata("general.name") or "",
            architecture=self.metadata("general.architecture") or "",
            description=description.value.decode("utf-8", "replace"),
            parameters=lib.llama_model_n_params(self._model),
            size=lib.llama_model_size(self._model),
            context=self.context,
            trained_context=lib.llama_model_n_ctx_train(self._model),
            vocabulary=self.vocabulary,
            layers=total,
            offloaded=layers,
            devices=tuple(device.name for device in self.devices),
            threads=self.threads,
            load_seconds=self.load_seconds,
            sampling=dict(self._sampling()),
            adapter=self._adapter_name,
        )

    def _sampling(self) -> Iterator[tuple[str, float]]:
        for name, key in _SAMPLING_KEYS.items():
            text = self.metadata(f"general.sampling.{key}")
            with contextlib.suppress(TypeError, ValueError):  # absent, or not a number
                value = float(text or "")
                if 0 <= value < 1e6 and (value or name != "repetition_penalty"):
                    yield name, value

    def _offloaded(self) -> tuple[int, int]:
        """Layers on a GPU and layers in all, as llama.cpp said while it loaded."""
        for line in reversed(LOG):
            if found := re.search(r"offloaded (\d+)/(\d+) layers", line):
                return int(found[1]), int(found[2])
        return 0, lib.llama_model_n_layer(self._model) + 1

    # --- loading ---

    def _load_model(self, config: EngineConfig, loading: Loading | None) -> lib.llama_model_p:
        self._available = available_memory()
        if not self.offload.layers:
            check_memory(_size(config), 0, self._available)
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 999 if self.offload.layers == ALL_LAYERS else self.offload.layers
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if config.mmap else lib.LLAMA_LOAD_MODE_NONE
        params.use_extra_bufts = config.repack

        def report(fraction: float, _data: object) -> bool:
            if loading:
                loading(fraction)
            return True

        params.progress_callback = lib.llama_progress_callback(report)
        model = load_model(config.model, params)
        self._stop.callback(lib.llama_model_free, model)
        return model

    def _load_adapter(self, config: EngineConfig) -> Any:
        if not config.adapter:
            return None
        experts = self.metadata(f"{self.metadata('general.architecture')}.expert_count")
        check_adapter(config.adapter, config.model, int(experts or 0))
        return load_adapter(self._model, config.adapter)

    def _make_context(self, config: EngineConfig) -> lib.llama_context_p:
        trained = lib.llama_model_n_ctx_train(self._model)
        context = config.context or min(trained, config.default_context)
        if not self.offload.layers:
            check_memory(_size(config), self._cache_bytes(context, config), self._available)
        params = lib.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = config.step_tokens + config.slots
        params.n_seq_max = config.slots + bool(config.prompt_cache)  # one for `save_state`
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = True
        params.no_perf = True
        # "On the CPU" means that nothing is computed elsewhere, large prompts included.
        params.op_offload = params.offload_kqv = bool(self.offload.layers)
        params.flash_attn_type = self._flash_attention(config)
        params.cb_eval = self._watch
        params.type_k = params.type_v = _KV_TYPES[config.kv_type][0]
        self._set_abort(params)
        made = lib.llama_init_from_model(self._model, params)
        if not made:
            raise NotEnoughMemory(
                f"llama.cpp could not make a context of {context} tokens",
                hint=last_words() or "try a smaller --context",
            )
        self._stop.callback(lib.llama_free, made)
        if self._adapter:
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(self._adapter)
            if lib.llama_set_adapters_lora(made, adapters, 1, (ctypes.c_float * 1)(1.0)):
                raise EngineError("llama.cpp could not set the adapter", hint=last_words())
        return made

    def _set_abort(self, params: lib.llama_context_params) -> None:
        # strlen is the callback: "" is 0, go on; "\1" is 1, stop. ggml asks hundreds of times a
        # token, which a Python function would answer at a cost of some percent of the speed.
        strlen = ctypes.CDLL(None).strlen if os.name != "nt" else ctypes.cdll.msvcrt.strlen
        params.abort_callback = ctypes.cast(strlen, type(params.abort_callback))
        params.abort_callback_data = ctypes.addressof(self._abort_flag)

    def _flash_attention(self, config: EngineConfig) -> int:
        # On the CPU it makes greedy text depend on how a prompt was cut into chunks, so that the
        # same request could answer differently the second time, when its prefix is cached.
        if config.kv_type != "f16":
            return 1  # LLAMA_FLASH_ATTN_TYPE_ENABLED: without it the values stay f16
        wanted = config.flash_attention
        if wanted == "auto":
            return -1 if self.offload.layers else 0  # LLAMA_FLASH_ATTN_TYPE_AUTO
        return int(wanted == "on")

    def _cache_bytes(self, context: int, config: EngineConfig) -> int:
        """Size of the KV cache, by the model's own head sizes."""
        arch = self.metadata("general.architecture")
        heads = lib.llama_model_n_head(self._model) or 1
        default = lib.llama_model_n_embd(self._model) // heads
        key = int(self.metadata(f"{arch}.attention.key_length") or default)
        value = int(self.metadata(f"{arch}.attention.value_length") or default)
        groups = lib.llama_model_n_head_kv(self._model) * lib.llama_model_n_layer(self._model)
        return int(context * groups * (key + value) * _KV_TYPES[config.kv_type][1] / 8)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:  # a bad sequence id aborts the process
            raise EngineError(f"slot {slot} does not exist")


def _size(config: EngineConfig) -> int:
    """Bytes of the model and its adapter."""
    adapter = config.adapter.stat().st_size if config.adapter else 0
    return gguf.size(config.model) + adapter


class _Batch:
    """llama.cpp's batch over arrays made once: filling it allocates nothing a token."""

    def __init__(self, size: int) -> None:
        self.token = np.zeros(size, np.int32)
        self.pos = np.zeros(size, np.int32)
        self.slot = np.zeros(size, np.int32)
        self.logits = np.zeros(size, np.int8)
        # n_seq_id 0 is a segmentation fault: every token has one sequence, set once and for all.
        self._one = np.ones(size, np.int32)
        self._slots = (self.slot.ctypes.data + 4 * np.arange(size)).astype(np.uintp)
        self.struct = lib.llama_batch()
        for name, array in (
            ("token", self.token),
            ("pos", self.pos),
            ("n_seq_id", self._one),
            ("seq_id", self._slots),
            ("logits", self.logits),
        ):
            pointer = type(getattr(self.struct, name))
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, pointer))

    def fill(self, slices: list[Slice]) -> int:
        """Lay the slices end to end; returns how many rows of logits they ask for."""
        end = rows = 0
        for part in slices:
            begin, end = end, end + part.size
            if end > len(self.token):  # more than n_batch aborts the process
                raise EngineError(f"a step of more than {len(self.token)} tokens")
            self.token[begin:end] = part.tokens
            self.pos[begin:end] = np.arange(part.start, part.start + part.size)
            self.slot[begin:end] = part.sequence.slot
            self.logits[begin:end] = 0
            self.logits[end - part.rows : end] = 1
            rows += part.rows
        self.struct.n_tokens = end
        return rows
