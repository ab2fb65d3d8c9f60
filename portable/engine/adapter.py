"""A LoRA adapter for a loaded model: checked for what llama.cpp would abort on, then loaded.

llama.cpp itself refuses another architecture, other names and other shapes. It takes the type of a
key and a third dimension as they are said, and aborts later.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType

from portable.engine.native import last_words, lib
from portable.errors import ModelFileError, UnsupportedModel

_KEYS = {
    "general.architecture": GGUFValueType.STRING,
    "adapter.type": GGUFValueType.STRING,
    "adapter.lora.alpha": GGUFValueType.FLOAT32,
}
_EMBEDDING = "token_embd.weight"


def check_adapter(path: Path, model: Path, experts: int) -> None:
    """Raises ModelFileError or UnsupportedModel. `experts` is how many the model has, or 0."""
    try:
        reader = GGUFReader(path)
        said = reader.fields.get("general.type")
        is_adapter = said and said.types == [GGUFValueType.STRING] and said.contents() == "adapter"
    except Exception as error:  # it trusts what the file says, and fails in many ways
        raise _no_adapter(path, f"it cannot be read: {error}") from None
    if not is_adapter:
        raise _no_adapter(path, "its general.type is not adapter")
    for key, wanted in _KEYS.items():
        field = reader.fields.get(key)
        if field is None or field.types != [wanted]:
            raise _no_adapter(path, f"it has no {key}")
    if "adapter.alora.invocation_tokens" in reader.fields:
        raise UnsupportedModel(f"{path.name} is an aLoRA, which works from a token on")
    shapes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
    for name, a in shapes.items():
        b = shapes.get(f"{name.removesuffix('.lora_a')}.lora_b")
        if name.endswith(".lora_a") and b and not _fits(name, a, b, experts):
            raise _no_adapter(path, f"{name} is {a}, with {b}")
    if f"{_EMBEDDING}.lora_a" in shapes and _is_tied(model):
        raise UnsupportedModel(
            f"{path.name} changes an embedding that {model.name} uses for its output too",
            hint="merge it instead: portable convert ADAPTER --merge",
        )


def load_adapter(model: Any, path: Path) -> Any:
    """The adapter, which lives as long as `model`. It must be there before a context is."""
    found = lib.llama_adapter_lora_init(model, os.fsencode(path))
    if not found:
        raise ModelFileError(
            f"{path.name} does not fit this model: {last_words()}",
            hint="give the model that the adapter was trained on",
        )
    return found


def _fits(name: str, a: list[int], b: list[int], experts: int) -> bool:
    """ggml's order: a row's length first."""
    if len(a) != len(b):
        return False
    if name.startswith(_EMBEDDING):
        return len(a) == 2 and a[0] == b[0]
    stacked = [experts] if "_exps." in name else []
    return len(a) >= 2 and a[1] == b[0] and a[2:] == b[2:] == stacked


def _is_tied(model: Path) -> bool:
    return all(tensor.name != "output.weight" for tensor in GGUFReader(model).tensors)


def _no_adapter(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        f"{path.name} is no LoRA adapter: {why}",
        hint="portable convert makes one of an adapter's folder",
    )
