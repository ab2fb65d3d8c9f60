"""A LoRA adapter's folder, as PEFT and ms-swift write it; knows no architecture and no GGUF.

PEFT computes W + scale * B @ A, with scale = lora_alpha / rank, or lora_alpha / sqrt(rank) for
rsLoRA; DoRA then gives each row the length that its magnitude says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.config import is_number
from convert.part import Floats, Integers
from convert.quantize import SOURCE_BYTES, to_float32
from convert.safetensors_file import SafetensorsFile, Stored
from portable.errors import CheckpointError, UnsupportedModel

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
NAME = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?P<part>lora_A|lora_B)(?:\.default)?\.weight|"
    r"(?P<embedding>lora_embedding_A|lora_embedding_B)(?:\.default)?|"
    r"(?P<magnitude>lora_magnitude_vector)(?:\.default)?(?:\.weight)?|"
    r"(?:base_layer\.)?(?P<full>weight|bias))"
)
# What these add to an adapter is neither a pair of matrices nor a magnitude.
REFUSED = (
    "alora_invocation_tokens",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
)
# Every other way to begin changes the base's weights, and the adapter fits only what is left.
INITIAL = (None, True, False, "gaussian", "eva", "orthogonal")
MERGE_FIRST = "merge it with PEFT's merge_and_unload(), and convert the folder which that makes"


@dataclass(frozen=True)
class Update:
    """What an adapter makes of one weight W, [rows, columns]: W + `scale` * `b` @ `a`.

    `a` is [rank, columns], `b` [rows, rank]; for an `embedding` their product is W transposed.
    `magnitude`, [rows], is DoRA's. Called in any thread, with the numbers of rows and their values.
    """

    a: Stored
    b: Stored
    scale: float
    embedding: bool = False
    magnitude: Stored | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's own."""
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.embedding else shape

    def __call__(self, rows: Integers, values: Floats) -> Floats:
        """In float64, rounded once: whatever order a BLAS adds in, the result is the same."""
        out = values.astype(np.float64)
        a, b = numbers(self.a), numbers(self.b)
        if self.embedding:
            a, b = b.T, a.T
        with np.errstate(all="ignore"):  # who writes them looks for NaN and infinity
            out += self.scale * (b[rows] @ a)
            if self.magnitude is not None:
                lengths = np.linalg.norm(out, axis=1)
                out *= (numbers(self.magnitude).reshape(-1)[rows] / lengths)[:, None]
            return out.astype(np.float32)


def numbers(stored: Stored) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A whole tensor in memory of its own."""
    raw = stored.file.read(stored.start, stored.bytes)
    return to_float32(raw, stored.dtype).astype(np.float64).reshape(stored.shape)


class Adapter(Checkpoint):
    """`updates` by the name of the weight, `full` tensors that replace the base's own.

    Raises CheckpointError for what is broken and UnsupportedModel for what no pair can say.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        found = self.json(SETTINGS)
        if found is None:
            raise CheckpointError(f"{folder} has no {SETTINGS}", hint="name the adapter's folder")
        self.settings = found
        _judge(found)
        self.updates: dict[str, Update] = {}
        self.full: dict[str, Stored] = {}

    @property
    def config(self) -> dict[str, Any]:
        """An adapter says nothing about its model."""
        return {}

    @property
    def alpha(self) -> float:
        """What llama.cpp divides by a weight's rank, to get its scale."""
        return self._strength(self.settings["lora_alpha"], self.settings["r"])

    def open_tensors(self) -> None:
        if not self.has(WEIGHTS) and self.has("adapter_model.bin"):
            raise CheckpointError(
                "the adapter is a pickle file, which can run code when it is opened",
                hint="save it as safetensors: PEFT's save_pretrained does",
            )
        file = SafetensorsFile(self.folder / WEIGHTS)
        self.files, self.tensors = [file], file.tensors
        halves: dict[str, dict[str, Stored]] = {}
        for tensor in file.tensors.values():
            self._sort(tensor, halves)
        self.updates = {name: self._update(name, found) for name, found in halves.items()}
        if not self.updates:
            raise CheckpointError(f"{WEIGHTS} holds no LoRA matrices", hint="train it again")

    def _sort(self, tensor: Stored, halves: dict[str, dict[str, Stored]]) -> None:
        match = NAME.fullmatch(tensor.name.removeprefix(PREFIX))
        if not match:
            raise UnsupportedModel(f"{tensor.name} is no LoRA matrix", hint=MERGE_FIRST)
        if tensor.dtype not in SOURCE_BYTES:
            raise UnsupportedModel(
                f"tensor {tensor.name} is stored as {tensor.dtype}",
                hint="save the adapter in BF16, F16 or F32",
            )
        role = match["part"] or match["embedding"] or match["magnitude"]
        name = f"{match['module']}.{match['full'] or 'weight'}"
        group = halves.setdefault(name, {}) if role else self.full
        key = role or name
        if key in group:
            raise CheckpointError(f"{tensor.name} and {group[key].name} are the same tensor")
        group[key] = tensor

    def _update(self, name: str, found: Mapping[str, Stored]) -> Update:
        embedding = "lora_embedding_A" in found or "lora_embedding_B" in found
        kind = "lora_embedding" if embedding else "lora"
        a, b = found.get(f"{kind}_A"), found.get(f"{kind}_B")
        magnitude = found.get("lora_magnitude_vector")
        if a is None or b is None or len(found) - (magnitude is not None) != 2:
            raise CheckpointError(
                f"{name} has only {' and '.join(sorted(found))}", hint="save the adapter again"
            )
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise CheckpointError(
                f"{name}: matrices of {list(a.shape)} and {list(b.shape)} cannot be multiplied",
                hint="the adapter is damaged, or not for linear layers",
            )
        alpha = self._alpha_of(name.removesuffix(".weight"))
        scale = self._strength(alpha, a.shape[0]) / a.shape[0]
        update = Update(a, b, scale, embedding, magnitude)
        if self.settings.get("use_dora") and not magnitude:
            raise CheckpointError(f"{name} has no magnitude, which DoRA needs")
        if magnitude and (embedding or math.prod(magnitude.shape) != update.shape[0]):
            raise CheckpointError(f"{magnitude.name} has shape {list(magnitude.shape)}")
        return update

    def _strength(self, alpha: float, rank: int) -> float:
        return alpha * math.sqrt(rank) if self.settings.get("use_rslora") else float(alpha)

    def _alpha_of(self, module: str) -> float:
        """PEFT tries the patterns in order; each may stand for the end of a module's name."""
        for pattern, alpha in (self.settings.get("alpha_pattern") or {}).items():
            plain = pattern.removeprefix("^")
            if module == plain or (plain == pattern and module.endswith(f".{plain}")):
                return float(alpha)
        return float(self.settings["lora_alpha"])


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no model of its own."""
    return (folder / SETTINGS).is_file() and not any(folder.glob("model*.safetensors"))


def _judge(settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModel(
            f"the adapter is of type {str(kind)[:40]!r}, not LORA", hint=MERGE_FIRST
        )
    refused = [key for key in REFUSED if settings.get(key)]
    if refused:
        raise UnsupportedModel(f"the adapter uses {refused[0]}", hint=MERGE_FIRST)
    start = settings.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in INITIAL:
        raise UnsupportedModel(
            f"init_lora_weights is {str(start)[:40]!r}, which changed the base's weights too",
            hint=MERGE_FIRST,
        )
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= 1 << 20:
        raise _bad("r", rank, "a whole number above 0")
    if not is_number(alpha) or not alpha:
        raise _bad("lora_alpha", alpha, "a number other than 0")
    _judge_pattern(settings.get("alpha_pattern") or {})


def _judge_pattern(pattern: Any) -> None:
    if not isinstance(pattern, dict):
        raise _bad("alpha_pattern", pattern, "an object")
    for name, alpha in pattern.items():
        if not is_number(alpha) or not alpha:
            raise _bad(f"alpha_pattern of {name[:60]!r}", alpha, "a number other than 0")
        if not re.fullmatch(r"\^?[\w.-]+", name):
            raise UnsupportedModel(
                f"alpha_pattern {name[:60]!r} is a regular expression", hint=MERGE_FIRST
            )


def _bad(key: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{SETTINGS}: {key} is {str(value)[:60]!r}, expected {expected}",
        hint="save the adapter again",
    )
