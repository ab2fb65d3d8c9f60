"""Every default of the engine, once, checked when it is made; knows nothing of any model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from portable.errors import UsageError

GpuLayers = int | Literal["auto", "all"]
FlashAttention = Literal["auto", "on", "off"]
KvType = Literal["auto", "f16", "q8_0", "q4_0"]
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]
Numa = Literal["off", "distribute", "isolate", "numactl"]
RopeScaling = Literal["none", "linear", "yarn"]
Pooling = Literal["auto", "mean", "cls", "last", "none"]
LONGEST_CONTEXT = 1 << 24  # tokens
LONGEST_GUESS = 15  # tokens ahead of one that is known
# Tokens: a deterministic prompt is read in these, counted from its beginning.
CHUNK = 64


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions are stretched beyond what a model was trained for; None is the model's own way.

    The context grows by the factor `scale`; the others are llama.cpp's parameters of these names.
    Raises UsageError for a value out of range.
    """

    scaling: RopeScaling | None = None
    scale: float | None = None
    freq_base: float | None = None
    yarn_orig_ctx: int | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            least = 0 if field.name == "yarn_ext_factor" else 1e-6
            if value is not None:
                _within(f"rope {field.name.replace('_', ' ')}", value, least, 1e9)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one model is loaded and run.

    `context` counts tokens and is shared by all running requests; 0 asks for the smaller of the
    model's trained length and `default_context`, or for what fits. `slots` requests decode
    together. A step reads at most `step_tokens` tokens, and while somebody is being answered as
    many as fit `step_seconds`, so that a long prompt does not stall running streams. It asks for
    logits of `step_rows` tokens at most; 0 is what answering takes. `threads` 0 is
    one per physical performance core, fewer while other programs are busy. `eco` spares a battery.
    A `kv_type` of q8_0 or q4_0 takes half or a quarter of the memory, and flash attention; auto is
    f16 where that fits.
    `gpu_layers`, `devices` by name (None: all, empty: the CPU), their shares in `tensor_split`,
    `main_gpu` for one alone, and `cpu_moe`, the layers whose experts stay on the host, overrule
    what is planned.
    `deterministic`: an answer is computed in the same steps, bit for bit, whoever else asks and
    whatever was asked before; each slot has a context of its own, and no two share a decode.
    `speculate` guesses repetitions ahead, and a `draft` model, which is another GGUF file with the
    same vocabulary, whatever comes: sooner the same text, as far as rounding allows.
    An `adapter` is a LoRA as a GGUF file, for every request.
    `pooling` is how a text's tokens become its embedding: auto is the model's own way, or their
    mean; with none a model that generates text makes no embeddings.
    Without `repack` weights stay as the file has them: less memory, and slower.
    Plans that ran out of memory are remembered in the folder `plans`, if there is one.
    Prefixes that are worth it lie in the folder `prompt_cache`, if there is one, and in
    `prompt_cache_bytes` at most; None is a share of the free disk.

    `rpc` are workers on other machines, as `host:port`; a step that takes longer than `rpc_seconds`
    means that one of them hangs.

    Raises UsageError for a value out of range.
    """

    model: Path
    context: int = 0
    slots: int = 16
    step_tokens: int = 512
    step_rows: int = 0
    step_seconds: float = 0.25
    queue: int = 64
    threads: int = 0
    eco: bool = False
    gpu_layers: GpuLayers = "auto"
    devices: tuple[str, ...] | None = None
    tensor_split: tuple[float, ...] = ()
    main_gpu: int | None = None
    cpu_moe: GpuLayers = "auto"
    load_mode: LoadMode = "auto"
    numa: Numa = "off"
    rope: Rope = Rope()
    flash_attention: FlashAttention = "auto"
    kv_type: KvType = "auto"
    prefix_cache: bool = True
    deterministic: bool = False
    speculate: bool = False
    pooling: Pooling = "auto"
    draft: Path | None = None
    adapter: Path | None = None
    repack: bool = True
    plans: Path | None = None
    prompt_cache: Path | None = None
    prompt_cache_bytes: int | None = None
    rpc: tuple[str, ...] = ()
    rpc_seconds: float = 120.0
    default_context: int = 8192

    def __post_init__(self) -> None:
        _within("context", self.context, 0, LONGEST_CONTEXT)
        _within("slots", self.slots, 1, 64)
        _within("step tokens", self.step_tokens, 1, 8192)
        _within("step rows", self.step_rows, 0, 8192)
        _within("step seconds", self.step_seconds, 0.001, 60)
        _within("queue", self.queue, 1, 4096)
        _within("threads", self.threads, 0, 512)
        _within("rpc seconds", self.rpc_seconds, 1, 3600)
        if self.kv_type not in ("auto", "f16") and self.flash_attention == "off":
            raise UsageError(
                f"a KV cache of {self.kv_type} needs flash attention",
                hint="leave --flash-attention out",
            )
        if self.deterministic:
            self._check_deterministic()
        for name, layers in (("gpu layers", self.gpu_layers), ("cpu moe", self.cpu_moe)):
            if isinstance(layers, int):
                _within(name, layers, 0, 1024)
            elif layers not in ("auto", "all"):
                raise UsageError(f"{name} is {layers!r}", hint="auto, all or a number")
        self._check_devices()

    @property
    def rows(self) -> int:
        """Rows of logits that a step may ask for: one a request, and one for each guess."""
        guesses = LONGEST_GUESS if self.speculate or self.draft else 0
        wanted = self.step_rows or self.slots * (1 + guesses)
        return min(wanted, self.step_tokens + self.slots)

    @property
    def keeps_prompts(self) -> bool:
        """Whether prefixes go to disk; those were read in steps that nobody knows any more."""
        return bool(self.prompt_cache) and self.prefix_cache and not self.deterministic

    def _check_devices(self) -> None:
        shares = self.tensor_split
        if any(not share >= 0 for share in shares) or (shares and not 0 < sum(shares) < math.inf):
            raise UsageError(
                f"tensor split is {shares}", hint="a share of 0 or more for each device"
            )
        if shares and self.main_gpu is not None:
            raise UsageError(
                "a main GPU takes all layers: there is nothing to split",
                hint="leave --tensor-split or --main-gpu out",
            )

    def _check_deterministic(self) -> None:
        if self.flash_attention == "on" or self.kv_type not in ("auto", "f16"):
            raise UsageError(
                "--deterministic needs flash attention off, and a KV cache of f16",
                hint="leave --flash-attention and --kv-type out",
            )
        if self.speculate or self.draft:
            raise UsageError(
                "--deterministic decodes token by token: it cannot guess ahead",
                hint="leave --speculate and --draft out",
            )
        _within("step tokens", self.step_tokens, CHUNK, 8192)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}", hint=f"a number from {low} to {high}")


def parse_gpu_layers(text: str, flag: str = "--gpu-layers") -> GpuLayers:
    """`auto`, `all` or a number of layers, as written on a command line."""
    value = text.strip().lower()
    if value == "auto":
        return "auto"
    if value == "all":
        return "all"
    if value.isdecimal():
        return int(value)
    raise UsageError(f"{flag} {text!r} is not known", hint="auto, all or a number of layers")


# One home for each default: flags take theirs from here.
ENGINE: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(EngineConfig)}
