"""config.json with its types checked; knows no family's names and no GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from portable.errors import CheckpointError

MAX_LAYERS = 512
MAX_COUNT = 1 << 31
MAX_NUMBER = 1e30


class Config:
    """Values of config.json over a family's defaults. A lie is an error that names the key.

    Of a model that sees, `text_config` says what its text part is.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        text = values.get("text_config")
        self.values = {**defaults, **values, **(text if isinstance(text, Mapping) else {})}

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def bad(self, key: str, expected: str) -> CheckpointError:
        value = repr(self.values.get(key))
        return CheckpointError(
            f"config.json: {key} is {value[:60]}, expected {expected}",
            hint="download config.json again",
        )

    def count(self, key: str, limit: int = MAX_COUNT) -> int:
        """A whole number from 1 to `limit`."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= limit:
            raise self.bad(key, f"a whole number from 1 to {limit}")
        return value

    def number(self, key: str) -> float:
        """A number above 0 that float32 can hold."""
        value = self.values.get(key)
        if not is_number(value) or not value > 0:
            raise self.bad(key, "a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.bad(key, "true or false")
        return bool(value)

    @property
    def layers(self) -> int:
        return self.count("num_hidden_layers", MAX_LAYERS)

    @property
    def heads(self) -> int:
        return self.count("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        """Key heads; the query heads must share them evenly."""
        if "num_key_value_heads" not in self:
            return self.heads
        found = self.count("num_key_value_heads")
        if self.heads % found:
            raise self.bad("num_key_value_heads", f"a divisor of {self.heads} attention heads")
        return found

    @property
    def head_dim(self) -> int:
        if "head_dim" in self:
            return self.count("head_dim")
        hidden = self.count("hidden_size")
        if hidden < self.heads:
            raise self.bad("num_attention_heads", f"at most the hidden size, {hidden}")
        return hidden // self.heads

    @property
    def tied(self) -> bool:
        return self.flag("tie_word_embeddings")


def is_number(value: Any) -> TypeGuard[float]:
    """A number within float32's range: JSON's reach to 1e308 and beyond, and Python reads NaN."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= MAX_NUMBER
