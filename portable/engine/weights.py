"""A GGUF file, loaded: its tokens, its tensors, where they lie. Contexts are made over it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from portable import gguf
from portable.engine.adapter import check_adapter, load_adapter
from portable.engine.backend import Loading, ModelInfo, Task
from portable.engine.buffers import Buffers
from portable.engine.buffers import read as read_buffers
from portable.engine.config import EngineConfig
from portable.engine.cores import OtherPrograms, find_cores, settle
from portable.engine.fallback import Fallback
from portable.engine.machine import check_file, host
from portable.engine.native import (
    LOG,
    SMALLER,
    allocation_failed,
    last_words,
    lib,
    list_devices,
    listen,
    load_model,
    start,
    use_numa,
)
from portable.engine.offload.device import GIB
from portable.engine.offload.plan import Plan
from portable.engine.offload.shape import shape_of
from portable.engine.offload.wish import wish_of
from portable.engine.placement import model_params, set_rope, why_no_device
from portable.engine.places import Place, places
from portable.engine.rpc.devices import blamed, connect, without_some
from portable.engine.rpc.lost import GUARD
from portable.engine.threads import Threads
from portable.engine.vocabulary import Vocabulary
from portable.errors import EngineError, NotEnoughMemory, OutOfMemory

_LAST_LINES = 20  # of llama.cpp's log, in which a backend tells why it aborts
_SAMPLING_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


class Weights(Vocabulary):
    """A model and its adapter, and all contexts over them: `close` frees what is left of these.

    It is a draft model if it is loaded `beside` another, with the memory that this one leaves.
    `fallback` says what to try. Raises ModelFileError, UnsupportedModel, NotEnoughMemory, which is
    OutOfMemory if there should be enough, or EngineError while loading.
    """

    def __init__(
        self,
        config: EngineConfig,
        loading: Loading | None = None,
        beside: Weights | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self._beside = beside
        self._started = time.perf_counter()
        for file in filter(None, (config.model, config.adapter)):
            check_file(file)
        start()
        use_numa(config.numa)
        self._workers = config.rpc
        self.cores = find_cores()
        self.threads, self._power = settle(self.cores, config.threads, eco=config.eco)
        self.buffers = Buffers()
        self._stop = contextlib.ExitStack()
        self.fallback = fallback or Fallback(config)
        self.plan = self._planned(config)
        with self.undone():
            self._open(config, loading)

    def _open(self, config: EngineConfig, loading: Loading | None) -> None:
        GUARD.listen(self._aborted)
        super().__init__(self._load_model(config, loading))
        self._on_host = self._stayed()
        stretch = config.rope.scale or 1
        self.trained_context = int(lib.llama_model_n_ctx_train(self._model) * stretch)
        self.width = int(lib.llama_model_n_embd_out(self._model))  # numbers in an embedding
        self.labels = int(lib.llama_model_n_cls_out(self._model))  # … in what a classifier says
        self.can_keep_part = not (
            lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        )
        self._adapter = self._load_adapter(config)
        self._adapter_name = config.adapter.name if config.adapter else ""
        self._abort_flag = ctypes.create_string_buffer(2)
        self._loaded()

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """What was loaded is freed if the rest cannot be."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _aborted(self, words: str) -> None:
        """Backends of GPUs abort when memory runs out in the midst of a step."""
        if allocation_failed(words + "".join([*LOG][-_LAST_LINES:])):
            self.fallback.end()

    def abort(self) -> None:
        """Interrupt the running decode, or the next one if none is running. Any thread may call."""
        self._abort_flag[0] = b"\1"

    def clear_abort(self) -> None:
        self._abort_flag[0] = b"\0"

    def close(self) -> None:
        self._stop.close()

    def spare_threads(self, config: EngineConfig) -> Threads:
        """Threads that make room for other programs, unless somebody named their number."""
        cores = self.cores.logical
        return Threads(self.threads, len(cores), None if config.threads else OtherPrograms(cores))

    # --- what it is ---

    def describe(self, context: int, task: Task = "generate") -> ModelInfo:
        """What was loaded, for a context of so many tokens, and what it is for."""
        description = ctypes.create_string_buffer(128)
        lib.llama_model_desc(self._model, description, len(description))
        return ModelInfo(
            name=self.metadata("general.name") or "",
            architecture=self.metadata("general.architecture") or "",
            description=description.value.decode("utf-8", "replace"),
            parameters=lib.llama_model_n_params(self._model),
            size=lib.llama_model_size(self._model),
            context=context,
            trained_context=self.trained_context,
            vocabulary=self.vocabulary,
            threads=self.threads,
            load_seconds=self.load_seconds,
            sampling=dict(self._sampling()),
            adapter=self._adapter_name,
            power=self._power,
            task=task,
            places=self.places(),
        )

    def places(self) -> tuple[Place, ...]:
        """What lies where, and what memory is left there now."""
        found, _ = list_devices(self._workers)
        return places(self.buffers, self._before, [*found, host()], self._on_host)

    def join(self, beside: Weights) -> None:
        """Count what lies `beside` this model for its sake as its own, but for the layers."""
        self.buffers += replace(beside.buffers, layers={})
        self._on_host += beside._on_host

    def _stayed(self) -> int:
        """Bytes of the weights that lie on no other device."""
        elsewhere = sum(self.buffers.elsewhere().values())
        if elsewhere and self._shape.tied:  # embeddings that are the output lie in both places
            elsewhere -= self._shape.tied
        return int(lib.llama_model_size(self._model)) - elsewhere

    def _sampling(self) -> Iterator[tuple[str, float]]:
        for name, key in _SAMPLING_KEYS.items():
            text = self.metadata(f"general.sampling.{key}")
            with contextlib.suppress(TypeError, ValueError):  # absent, or not a number
                value = float(text or "")
                if 0 <= value < 1e6 and (value or name != "repetition_penalty"):
                    yield name, value

    # --- loading ---

    def _planned(self, config: EngineConfig) -> Plan:
        """What is to lie where. Raises NotEnoughMemory, and UsageError for wrong devices."""
        missing = connect(config.rpc) if config.gpu_layers != 0 and config.devices != () else ()
        config = without_some(config) if missing else config
        devices, backends = list_devices(config.rpc)
        own = host()
        if self._beside:
            own = replace(own, free=min(own.free, self._beside.room))
        shape = shape_of([gguf.read(file) for file in gguf.shards(config.model)])
        trained = int(shape.trained_context * (config.rope.scale or 1))
        adapter, draft = (gguf.size(f) if f else 0 for f in (config.adapter, config.draft))
        with blamed(missing):
            plan = self.fallback.plan(
                replace(shape, trained_context=trained),
                [*devices, own],
                wish_of(config, extra=adapter + draft),
                unused=why_no_device(config, devices, backends),
            )
        self._before, self._shape = [*devices, own], shape
        used = {device.name: device for device in devices}
        self.devices = [used[name] for name in plan.devices]
        self._room = own.free - plan.shares[-1].weights + draft
        without = "".join(f"; without a worker: {error.message}" for error in missing)
        return replace(plan, reason=plan.reason + without)

    def _load_model(self, config: EngineConfig, loading: Loading | None) -> lib.llama_model_p:
        params = model_params(
            config,
            self.devices,
            self.plan.gpu_layers,
            self.plan.tensor_split,
            self.plan.experts_on_host,
        )

        def report(fraction: float, _data: object) -> bool:
            if loading:
                loading(fraction)
            return True

        params.progress_callback = lib.llama_progress_callback(report)
        with listen() as said:
            model = load_model(config.model, params)
        self._note(said)
        self._stop.callback(lib.llama_model_free, model)
        return model

    def _note(self, said: list[str]) -> None:
        """What was taken where, in llama.cpp's words."""
        self.buffers += read_buffers("".join(said).splitlines(), self.devices)

    def _load_adapter(self, config: EngineConfig) -> Any:
        if not config.adapter:
            return None
        experts = self.metadata(f"{self.metadata('general.architecture')}.expert_count")
        check_adapter(config.adapter, config.model, int(experts or 0))
        with listen() as said:
            adapter = load_adapter(self._model, config.adapter)
        self._note(said)
        return adapter

    def _loaded(self) -> None:
        self.load_seconds = time.perf_counter() - self._started

    # --- contexts ---

    @property
    def room(self) -> int:
        """Bytes of this machine's memory that the weights and the contexts so far leave."""
        return max(0, self._room)

    @property
    def taken(self) -> int:
        """Bytes of this machine's memory for the weights and the planned context."""
        return self.plan.shares[-1].total

    def claim(self, context: int) -> None:
        """Raise NotEnoughMemory unless there is room for a context of so many bytes."""
        if context > self._room and not self.plan.gpu_layers:
            raise NotEnoughMemory(
                f"it takes {context / GIB:.1f} GiB of memory, {self.room / GIB:.1f} are free",
                hint=SMALLER,
            )
        self._room -= context

    def context_params(self, config: EngineConfig) -> lib.llama_context_params:
        """What all contexts have in common."""
        params = lib.llama_context_default_params()
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = True
        params.no_perf = True
        set_rope(params, config.rope)
        # "On the CPU" means that nothing is computed elsewhere, large prompts included.
        params.op_offload = bool(self.plan.gpu_layers)
        params.offload_kqv = params.op_offload and not self.plan.cache_on_host
        # strlen is the callback: "" is 0, go on; "\1" is 1, stop. ggml asks hundreds of times a
        # token, which a Python function would answer at a cost of some percent of the speed.
        strlen = ctypes.CDLL(None).strlen if os.name != "nt" else ctypes.cdll.msvcrt.strlen
        params.abort_callback = ctypes.cast(strlen, type(params.abort_callback))
        params.abort_callback_data = ctypes.addressof(self._abort_flag)
        return params

    def open_context(self, params: lib.llama_context_params) -> lib.llama_context_p:
        """A context with the adapter set. Raises NotEnoughMemory and EngineError."""
        # llama.cpp rounds up as well, but bounds the batch by it before: if there are more
        # sequences than that, it aborts.
        params.n_ctx = -(-params.n_ctx // 256) * 256
        with listen() as said:
            made = lib.llama_init_from_model(self._model, params)
        if not made:
            words = allocation_failed("".join(said))
            raise (OutOfMemory if words else NotEnoughMemory)(
                f"llama.cpp could not make a context of {params.n_ctx} tokens",
                hint=words or last_words() or SMALLER,
            )
        self._note(said)
        self._stop.callback(lib.llama_free, made)
        if self._adapter:
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(self._adapter)
            if lib.llama_set_adapters_lora(made, adapters, 1, (ctypes.c_float * 1)(1.0)):
                raise EngineError("llama.cpp could not set the adapter", hint=last_words())
        return made

    def cache_bytes(self, tokens: int, bits: float) -> int:
        """Size of a KV cache with `bits` a value, by the model's own head sizes."""
        arch = self.metadata("general.architecture")
        heads = lib.llama_model_n_head(self._model) or 1
        default = lib.llama_model_n_embd(self._model) // heads
        key = int(self.metadata(f"{arch}.attention.key_length") or default)
        value = int(self.metadata(f"{arch}.attention.value_length") or default)
        groups = lib.llama_model_n_head_kv(self._model) * lib.llama_model_n_layer(self._model)
        return int(tokens * groups * (key + value) * bits / 8)
