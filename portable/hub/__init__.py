"""ModelScope and Hugging Face: names of models, and their files on this disk; knows no catalogue.

connect("ms").snapshot("Qwen/Qwen3-0.6B", ["*.json", "*.safetensors"])  ->  Snapshot(folder, commit)
"""

from __future__ import annotations

from pathlib import Path

from portable.hub.base import Hub, Snapshot, offline_by_environment
from portable.hub.hub_file import HubFile
from portable.hub.mixing import Taken, take_over
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

# In the order in which they are asked for a model that is named without a hub.
TITLES = {"ms": "ModelScope", "hf": "Hugging Face"}

__all__ = [
    "TITLES",
    "Hub",
    "HubFile",
    "Listing",
    "Ref",
    "RemoteFile",
    "Snapshot",
    "Taken",
    "choose_gguf",
    "connect",
    "has_gguf",
    "is_id",
    "is_revision",
    "offline_by_environment",
    "parse",
    "partials",
    "take_over",
    "unsafe_name",
]


def partials() -> list[Path]:
    """What downloads that were broken off left in the clients' caches, made here."""
    return [path for key in TITLES for path in connect(key).partials()]


def connect(hub: str, local_dir: Path | None = None) -> Hub:
    """The hub of that short name, `ms` or `hf`; opens no socket yet."""
    if hub == "hf":
        from portable.hub.huggingface import HuggingFace  # noqa: PLC0415  its client takes 0.1 s

        return HuggingFace(local_dir)
    from portable.hub.modelscope import ModelScope  # noqa: PLC0415  its client takes 0.2 s

    return ModelScope(local_dir)
