"""Checkpoint folder -> quantized GGUF, without torch; knows nothing of the runtime and of hubs.

The functions are the command line's flags. `convert` and `check_config` load numpy when they are
first asked for: a program's `--help` must not wait for that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from convert.options import Options
from convert.quants import (
    ADAPTER_TYPE,
    DEFAULT_QUANT,
    GUIDED,
    bits,
    default_output_name,
    quant_name,
    quant_names,
)
from convert.report import Converted, Progress

if TYPE_CHECKING:
    from convert.arch import check_config
    from convert.pipeline import convert, convert_adapter
    from convert.plan import check_folder
    from convert.sizes import Preview, preview

__all__ = [
    "ADAPTER_TYPE",
    "DEFAULT_QUANT",
    "GUIDED",
    "Converted",
    "Options",
    "Preview",
    "Progress",
    "bits",
    "check_config",
    "check_folder",
    "convert",
    "convert_adapter",
    "default_output_name",
    "preview",
    "quant_name",
    "quant_names",
    "wanted_files",
]
_LATER = {
    "convert": "convert.pipeline",
    "convert_adapter": "convert.pipeline",
    "preview": "convert.sizes",
    "check_config": "convert.arch",
    "check_folder": "convert.plan",
}


def wanted_files(*, weights: bool = True) -> list[str]:
    """Patterns of the files of a hub repository that a conversion reads; nothing else is needed."""
    return [
        *(["*.safetensors"] if weights else []),
        "*.safetensors.index.json",
        "config.json",
        "generation_config.json",
        "tokenizer*",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
        "chat_template*",
        "additional_chat_templates/*.jinja",
        "modules.json",
        "*_Pooling/config.json",
        "README.md",
    ]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'convert' has no attribute {name!r}")
