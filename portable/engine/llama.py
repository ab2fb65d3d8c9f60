"""THE native door: llama.cpp through llama_cpp's low-level functions. Every call is guarded here.

Knows nothing of requests: it tokenizes, decodes batches, and keeps, copies and drops cells. Which
calls can kill the process, and with what arguments, was measured; each guard names its reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from portable.engine.backend import Aborted, CacheFull, Loading, ModelInfo
from portable.engine.config import EngineConfig
from portable.engine.machine import check_file, default_threads
from portable.engine.offload import ALL_LAYERS, Device, check_memory, plan
from portable.engine.sequence import Slice
from portable.errors import EngineError, ModelFileError, NotEnoughMemory, UnsupportedModel

# ggml reads this when it is loaded; without it an abort first waits for a debugger.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# So does libgomp. Measured on two cores: its long spinning collapses as soon as another program
# runs, short spinning costs nothing. With many cores waking them up may cost more: not measured.
if default_threads() <= 4:
    os.environ.setdefault("GOMP_SPINCOUNT", "100")

import llama_cpp as lib
from llama_cpp._ggml import libggml

_GPU_TYPES = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU, _IGPU
_SAMPLING_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
_LOG: deque[str] = deque(maxlen=400)


def _remember(_level: int, text: bytes, _data: object) -> None:
    _LOG.append(text.decode("utf-8", "replace"))


# llama.cpp keeps the pointer: the callback must live as long as the process.
_log = lib.llama_log_callback(_remember)


class Llama:
    """A GGUF file, loaded, with one unified KV cache. Implements `Backend`.

    Raises ModelFileError, UnsupportedModel, NotEnoughMemory or EngineError while loading.
    """

    def __init__(self, config: EngineConfig, loading: Loading | None = None) -> None:
        started = time.perf_counter()
        check_file(config.model)
        lib.llama_log_set(_log, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.devices, backends = list_devices()
        self.offload = plan(
            config.gpu_layers, self.devices, backends, os.environ.get("CUDA_VISIBLE_DEVICES")
        )
        self.threads = config.threads or default_threads()
        self._stop = contextlib.ExitStack()
        self._model = self._load_model(config, loading)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocabulary = lib.llama_vocab_n_tokens(self._vocab)
        self._abort_flag = ctypes.create_string_buffer(2)
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
        self._batch = _Batch(lib.llama_n_batch(self._context))
        self._pieces: dict[int, bytes] = {}
        self.load_seconds = time.perf_counter() - started

    # --- text ---

    def tokenize(self, text: str, *, special: bool, start: bool) -> list[int]:
        # Only strict UTF-8 may go in: bytes above U+10FFFF abort the process.
        data = text.encode("utf-8")
        size = len(data) + 8
        while True:
            ids = (lib.llama_token * size)()
            n = lib.llama_tokenize(self._vocab, data, len(data), ids, size, start, special)
            if n >= 0:
                return list(ids[:n])
            size = -n

    def piece(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._render(token)
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def token_text(self, token: int) -> str:
        """The vocabulary's own name of a token; empty for -1, llama.cpp's word for none."""
        if not 0 <= token < self.vocabulary:
            return ""
        return bytes(lib.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    @property
    def bos_text(self) -> str:
        return self.token_text(lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self.token_text(lib.llama_vocab_eos(self._vocab))

    @property
    def control_texts(self) -> list[str]:
        """The texts that name control tokens, such as <|im_end|>."""
        return [
            self.token_text(t)
            for t in range(self.vocabulary)
            if lib.llama_vocab_is_control(self._vocab, t)
        ]

    @property
    def chat_template(self) -> str | None:
        template = lib.llama_model_chat_template(self._model, None)
        return template.decode("utf-8", "replace") if template else None

    def metadata(self, key: str) -> str | None:
        """One metadata value as text, or None."""
        size = 256
        buffer = ctypes.create_string_buffer(size)
        n = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
        return buffer.value.decode("utf-8", "replace") if n >= 0 else None

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

    def abort(self) -> None:
        self._abort_flag[0] = b"\1"

    def close(self) -> None:
        self._stop.close()

    # --- what it is ---

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
        for line in reversed(_LOG):
            if found := re.search(r"offloaded (\d+)/(\d+) layers", line):
                return int(found[1]), int(found[2])
        return 0, lib.llama_model_n_layer(self._model) + 1

    # --- loading ---

    def _load_model(self, config: EngineConfig, loading: Loading | None) -> lib.llama_model_p:
        self._available = psutil.virtual_memory().available
        if not self.offload.layers:
            check_memory(config.model.stat().st_size, 0, self._available)
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 999 if self.offload.layers == ALL_LAYERS else self.offload.layers
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if config.mmap else lib.LLAMA_LOAD_MODE_NONE

        def report(fraction: float, _data: object) -> bool:
            if loading:
                loading(fraction)
            return True

        params.progress_callback = lib.llama_progress_callback(report)
        model = lib.llama_model_load_from_file(os.fsencode(config.model), params)
        if not model:
            raise _load_error(config.model)
        self._stop.callback(lib.llama_model_free, model)
        return model

    def _make_context(self, config: EngineConfig) -> lib.llama_context_p:
        trained = lib.llama_model_n_ctx_train(self._model)
        context = config.context or min(trained, config.default_context)
        if not self.offload.layers:
            size = config.model.stat().st_size
            check_memory(size, self._cache_bytes(context), self._available)
        params = lib.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = config.step_tokens + config.slots
        params.n_seq_max = config.slots
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = True
        params.no_perf = True
        # "On the CPU" means that nothing is computed elsewhere, large prompts included.
        params.op_offload = params.offload_kqv = bool(self.offload.layers)
        params.flash_attn_type = self._flash_attention(config)
        self._set_abort(params)
        made = lib.llama_init_from_model(self._model, params)
        if not made:
            raise NotEnoughMemory(
                f"llama.cpp could not make a context of {context} tokens",
                hint=last_words() or "try a smaller --context",
            )
        self._stop.callback(lib.llama_free, made)
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
        wanted = config.flash_attention
        if wanted == "auto":
            return -1 if self.offload.layers else 0  # LLAMA_FLASH_ATTN_TYPE_AUTO
        return int(wanted == "on")

    def _cache_bytes(self, context: int) -> int:
        """Size of an f16 KV cache, by the model's own head sizes."""
        arch = self.metadata("general.architecture")
        heads = lib.llama_model_n_head(self._model) or 1
        default = lib.llama_model_n_embd(self._model) // heads
        key = int(self.metadata(f"{arch}.attention.key_length") or default)
        value = int(self.metadata(f"{arch}.attention.value_length") or default)
        groups = lib.llama_model_n_head_kv(self._model) * lib.llama_model_n_layer(self._model)
        return int(2 * context * groups * (key + value))

    def _render(self, token: int) -> bytes:
        if not 0 <= token < self.vocabulary:  # a bad id aborts the process
            raise EngineError(f"token {token} is outside the vocabulary")
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:  # a bad sequence id aborts the process
            raise EngineError(f"slot {slot} does not exist")


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
            begin, end = end, end + part.count
            if end > len(self.token):  # more than n_batch aborts the process
                raise EngineError(f"a step of more than {len(self.token)} tokens")
            self.token[begin:end] = part.tokens
            self.pos[begin:end] = np.arange(part.start, part.start + part.count)
            self.slot[begin:end] = part.sequence.slot
            self.logits[begin:end] = 0
            self.logits[end - 1] = part.wants_logits
            rows += part.wants_logits
        self.struct.n_tokens = end
        return rows


def list_devices() -> tuple[list[Device], list[str]]:
    """The GPUs that the compiled-in backends see, and the names of these backends."""
    for name in ("dev_get", "reg_get"):
        getattr(libggml, f"ggml_backend_{name}").restype = ctypes.c_void_p
    for name in ("dev_name", "dev_description", "reg_name"):
        getattr(libggml, f"ggml_backend_{name}").restype = ctypes.c_char_p
    backends = [
        libggml.ggml_backend_reg_name(ctypes.c_void_p(libggml.ggml_backend_reg_get(i))).decode()
        for i in range(libggml.ggml_backend_reg_count())
    ]
    found = [
        ctypes.c_void_p(libggml.ggml_backend_dev_get(i))
        for i in range(libggml.ggml_backend_dev_count())
    ]
    return [_device(d) for d in found if libggml.ggml_backend_dev_type(d) in _GPU_TYPES], backends


def _device(handle: ctypes.c_void_p) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    libggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    return Device(
        libggml.ggml_backend_dev_name(handle).decode(),
        libggml.ggml_backend_dev_description(handle).decode(),
        free.value,
        total.value,
    )


def last_words() -> str:
    """llama.cpp's last error line."""
    lines = [line.strip() for line in "".join(_LOG).splitlines()]
    return next((line for line in reversed(lines) if "error" in line or "failed" in line), "")


def _load_error(path: Path) -> ModelFileError | UnsupportedModel:
    words = next((line.strip() for line in _LOG if "error" in line), last_words())
    kind = UnsupportedModel if "unknown model architecture" in words else ModelFileError
    return kind(f"llama.cpp cannot load {path.name}: {words}", hint="convert or download it again")
