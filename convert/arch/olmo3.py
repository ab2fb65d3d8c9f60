"""OLMo 3: OLMo 2 with a window in three of four layers; knows no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convert.arch import decoder, olmo2
from convert.config import Config

ARCHITECTURES: Sequence[str] = ("Olmo3ForCausalLM",)
GGUF = olmo2.GGUF
DEFAULTS: Mapping[str, Any] = {**olmo2.DEFAULTS, "sliding_window": 4096}
RENAMED: Sequence[tuple[str, str]] = decoder.RENAMED
SKIP = decoder.SKIP
VOCAB = olmo2.VOCAB
KINDS = ("full_attention", "sliding_attention")

sizes = olmo2.sizes
rows = olmo2.rows
extra_tensors = olmo2.extra_tensors


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    yield from decoder.metadata(config)
    yield "attention.sliding_window", "uint32", config.count("sliding_window")
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = [KINDS[(i + 1) % 4 != 0] for i in range(config.layers)]
    if not isinstance(kinds, list) or len(kinds) != config.layers or set(kinds) - set(KINDS):
        raise config.bad("layer_types", f"{config.layers} of {' and '.join(KINDS)}")
    yield "attention.sliding_window_pattern", "bools", [kind == KINDS[1] for kind in kinds]
