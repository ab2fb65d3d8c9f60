"""ModelScope and Hugging Face: names of models, and their files on this disk; knows no catalogue.

connect("ms").snapshot("Qwen/Qwen3-0.6B", ["*.json", "*.safetensors"])  ->  Snapshot(folder, commit)
"""

from __future__ import annotations

from portable.hub.base import Hub, Snapshot, offline_by_environment
from portable.hub.names import (
    Listing,
    Ref,
    RemoteFile,
    choose_gguf,
    has_gguf,
    is_id,
    is_revision,
    parse,
    unsafe_name,
)

DEFAULT_HUB = "ms"
TITLES = {"ms": "ModelScope", "hf": "Hugging Face"}

__all__ = [
    "DEFAULT_HUB",
    "TITLES",
    "Hub",
    "Listing",
    "Ref",
    "RemoteFile",
    "Snapshot",
    "choose_gguf",
    "connect",
    "has_gguf",
    "is_id",
    "is_revision",
    "offline_by_environment",
    "parse",
    "unsafe_name",
]


def connect(hub: str) -> Hub:
    """The hub of that short name, `ms` or `hf`; opens no socket yet."""
    if hub == "hf":
        from portable.hub.huggingface import HuggingFace  # noqa: PLC0415  its client takes 0.1 s

        return HuggingFace()
    from portable.hub.modelscope import ModelScope  # noqa: PLC0415  its client takes 0.2 s

    return ModelScope()
