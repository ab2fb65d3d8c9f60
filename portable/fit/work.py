"""What a model makes a processor do for one token, read from the head of its file. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portable.gguf import Head, Tensor
from portable.tensortype import BY_ID

# Read by rows and not multiplied.
_LOOKED_UP = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
_OUTPUT = ("output.weight", "token_embd.weight")
Kind = tuple[int, int]  # ggml's type, values of a row


@dataclass(frozen=True)
class Attention:
    """Of all layers alike: `heads` of queries over `groups` of keys and values, so long each."""

    heads: int
    groups: int
    key: int
    value: int


@dataclass(frozen=True)
class Work:
    """`matrices` are the values multiplied in the layers for a token, `output` those for a token
    that the next one follows from: an encoder has none. `windows` has for each layer that attends
    how many tokens it looks back, 0 for all."""

    matrices: Mapping[Kind, float]
    output: Mapping[Kind, float]
    layers: int
    width: int
    windows: tuple[int, ...] = ()
    attention: Attention | None = None

    @property
    def kinds(self) -> list[Kind]:
        return list(dict.fromkeys([*self.matrices, *self.output]))


def work_of(heads: Sequence[Head], windows: Sequence[int], *, encoder: bool) -> Work:
    """`windows`: as in `Work`."""
    keys = heads[0].keys
    number = _Numbers(keys)
    tensors = [tensor for head in heads for tensor in head.infos]
    matrices, output = defaultdict[Kind, float](float), defaultdict[Kind, float](float)
    share = number("expert_used_count", 1) / max(1, number("expert_count", 1))
    for tensor in filter(_is_matrix, tensors):
        if not tensor.name.startswith((*_LOOKED_UP, *_OUTPUT)):
            part = share if "_exps" in tensor.name else 1.0
            matrices[tensor.type, tensor.shape[-1]] += part * tensor.values
    by_name = {tensor.name: tensor for tensor in tensors}
    if last := next((by_name[name] for name in _OUTPUT if name in by_name), None):
        output[last.type, last.shape[-1]] += last.values
    return Work(
        matrices,
        {} if encoder else output,
        number("block_count"),
        number("embedding_length"),
        tuple(windows),
        _attention(number) if windows else None,
    )


def _is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) > 1 and min(tensor.shape[-2:]) > 4 and tensor.type in BY_ID


class _Numbers:
    """The model's own keys; of one number a layer the largest."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys
        self._architecture = keys.get("general.architecture")

    def __call__(self, name: str, default: int = 0) -> int:
        value = self._keys.get(f"{self._architecture}.{name}", default)
        value = max(value, default=default) if isinstance(value, tuple) else value
        return int(value) if isinstance(value, int) else default


def _attention(number: _Numbers) -> Attention | None:
    """As it is computed; of compressed keys and values one group is kept."""
    heads = number("attention.head_count")
    if not heads:
        return None
    groups = number("attention.head_count_kv", heads)
    length = number("embedding_length") // heads
    key = number("attention.key_length", length)
    return Attention(heads, groups, key, number("attention.value_length", length))
