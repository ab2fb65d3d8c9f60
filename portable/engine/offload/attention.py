"""The keys of a GGUF file -> what a layer keeps of a text, as llama.cpp counts it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

_F16, _F32 = 2, 4
_RECURRENT = re.compile(r"\.(ssm_|shortconv|time_mix)")
# These end with vectors, not with logits.
_NO_OUTPUT = frozenset(
    [
        "bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "eurobert",
        "modern-bert",
    ]
)
# llama.cpp gives these no memory: they see a text once, and whole.
_FORGETFUL = _NO_OUTPUT | {
    "gemma-embedding",
    "wavtokenizer-dec",
    "dream",
    "llada",
    "llada-moe",
    "rnd1",
}
# Every so many layers one sees all tokens, where the file does not say which: llama.cpp's defaults.
_PERIODS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "olmo2": 4,
    "cohere2": 4,
    "exaone4": 4,
    "llama4": 4,
}


def is_recurrent(tensor: str) -> bool:
    """Whether only layers that keep a state have a tensor of this name."""
    return bool(_RECURRENT.search(tensor))


class Attention:
    """What the keys of one file say; numbers that are not there are 0."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys
        self.architecture = str(keys.get("general.architecture") or "")
        self.layers = self.most("block_count")
        self.trunk = self.layers - self.most("nextn_predict_layers")
        self.width = self.most("embedding_length")
        self.generates = self.architecture not in _NO_OUTPUT

    def of(self, name: str, layer: int, default: int = 0) -> int:
        """A number that each layer may have its own of."""
        value = self._keys.get(f"{self.architecture}.{name}", default)
        if isinstance(value, tuple):
            value = value[layer] if layer < len(value) else default
        return int(value) if isinstance(value, int) else default

    def most(self, name: str) -> int:
        value = self._keys.get(f"{self.architecture}.{name}", 0)
        numbers = value if isinstance(value, tuple) else (value,)
        return max((int(n) for n in numbers if isinstance(n, int)), default=0)

    def numbers(self, recurrent: bool) -> int:
        """Numbers that a token takes while it is computed, of the largest layer."""
        every = self.most("attention.head_count")
        kept = max((self._keys_row(n) + self._values_row(n) for n in range(self.layers)), default=0)
        # Every head reads the compressed row as if it were its own key.
        queries = (4 if self._is_latent else 2) * every * self._row(0, "key")
        states = 6 * self.most("ssm.inner_size") if recurrent else 0
        return max(queries + kept, states)

    @property
    def quantizes_cache(self) -> bool:
        """Whether rows of keys and values divide into ggml's blocks of 32."""
        return all(self._row(0, kind) % 32 == 0 for kind in ("key", "value"))

    # --- the KV cache ---

    def cache(self, layer: int, *, recurrent: bool) -> int:
        """Bytes of a token's keys and values at f16."""
        if self.architecture in _FORGETFUL or not self._keeps(layer, recurrent):
            return 0
        return _F16 * (self._keys_row(layer) + self._values_row(layer) + self._index(layer))

    def padding(self, layer: int, *, recurrent: bool) -> int:
        """Bytes more without flash attention: all rows of values are as long as the longest."""
        if not self.cache(layer, recurrent=recurrent) or self._is_latent:
            return 0
        return _F16 * (self._longest - self._values_row(layer))

    @cached_property
    def _longest(self) -> int:
        return max(self._values_row(n) for n in range(self.layers))

    @property
    def _is_latent(self) -> bool:
        """Keys and values come out of one compressed row, which alone is kept."""
        return bool(self.most("attention.key_length_mla"))

    def _keeps(self, layer: int, recurrent: bool) -> bool:
        shared = self.most("attention.shared_kv_layers")
        first = 20 if self.architecture == "gemma3n" else self.layers - shared
        # Of the hybrid ones only Falcon's do both in one layer.
        return layer < first and (not recurrent or self.architecture == "falcon-h1")

    def _keys_row(self, layer: int) -> int:
        return self._heads(layer) * self._row(layer, "key")

    def _values_row(self, layer: int) -> int:
        return 0 if self._is_latent else self._heads(layer) * self._row(layer, "value")

    def _heads(self, layer: int) -> int:
        every = self.of("attention.head_count", layer)
        return self.of("attention.head_count_kv", layer, every)

    def _row(self, layer: int, kind: str) -> int:
        first = self.of("attention.head_count", 0)
        length = self.of(f"attention.{kind}_length", 0, self.width // first if first else 0)
        if self.window(layer):
            return self.of(f"attention.{kind}_length_swa", 0, length)
        return length

    def _index(self, layer: int) -> int:
        """Sparse attention finds its tokens by keys of their own."""
        return self.of("attention.indexer.key_length", layer)

    def window(self, layer: int) -> int:
        """Tokens that the layer looks back; 0 is all."""
        size = self.most("attention.sliding_window")
        pattern = self._keys.get(f"{self.architecture}.attention.sliding_window_pattern")
        if not isinstance(pattern, tuple):
            period = self.most("attention.sliding_window_pattern")
            period = period or _PERIODS.get(self.architecture, 0)
            return size if period > 0 and layer % period < period - 1 else 0
        return size if layer < len(pattern) and pattern[layer] else 0

    # --- what a sequence takes however long it is ---

    @property
    def state(self) -> int:
        """Bytes of a recurrent layer's state of one sequence."""
        return _F32 * (self._convolution() + self._memory())

    def _convolution(self) -> int:
        if self.most("wkv.head_size"):
            return (self.most("token_shift_count") or 2) * self.width
        if short := self.most("shortconv.l_cache"):
            return self.width * (short - 1)
        if head := self.most("kda.head_dim"):
            return 3 * max(self.most("ssm.conv_kernel") - 1, 3) * self._first_heads() * head
        groups = 2 * self.most("ssm.group_count") * self.most("ssm.state_size")
        kernel = max(0, self.most("ssm.conv_kernel") - 1)
        return kernel * (self.most("ssm.inner_size") + groups)

    def _memory(self) -> int:
        if head := self.most("wkv.head_size"):
            return self.width * head
        if head := self.most("kda.head_dim"):
            return head * head * self._first_heads()
        return self.most("ssm.state_size") * self.most("ssm.inner_size")

    def _first_heads(self) -> int:
        return self.of("attention.head_count", 0)
