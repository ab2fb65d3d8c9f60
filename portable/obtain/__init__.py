"""Turns what the user calls a model into one GGUF file on this disk; knows no engine, no terminal.

    file.gguf                used where it lies
    folder                   converted once into the store (or its only .gguf is used)
    catalogue name, hub id   from the store, else downloaded, and converted unless it is a GGUF
    nothing                  the default model when a hub answers, else the embedded one

A model that the user named is never replaced by another.
"""

from __future__ import annotations

from dataclasses import replace

import convert
from portable import hub
from portable.errors import UsageError
from portable.obtain import local, remote
from portable.obtain.fitting import settle
from portable.obtain.model import Checkpoint, Model, Say, Wish
from portable.progress import Report, silent

__all__ = ["Checkpoint", "Model", "Wish", "fetch_checkpoint", "obtain", "quant_of", "ready"]


def obtain(
    model: str | None,
    *,
    quant: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    say: Say,
    progress: Report = silent,
) -> Model:
    """The GGUF of `model`, ready to load; raises what `ready` raises."""
    name = convert.quant_name(quant) if quant else None
    return ready(model, Wish(name, revision, offline, say, progress))


def ready(model: str | None, wish: Wish) -> Model:
    """The GGUF of `model`, found, downloaded or converted.

    Raises UsageError (no such model), ModelFileError, CheckpointError, UnsupportedModel, DiskError,
    NotEnoughMemory (for the smallest of a hub's files) and NetworkError, each with what to do next
    in `hint`.
    """
    wish = replace(wish, offline=wish.offline or hub.offline_by_environment())
    if model is None:
        return remote.default(wish, settle)
    path = local.path_of(model)
    if path is None:
        return remote.named(remote.ref(model), wish, settle)
    return local.folder(path, wish) if local.is_folder(path) else local.file(path, wish)


def quant_of(model: str) -> str | None:
    """The quantization that a name like `org/name:Q8_0` says, which wins over the flags."""
    return None if local.path_of(model) else remote.ref(model).quant


def fetch_checkpoint(model: str, wish: Wish) -> Checkpoint:
    """The checkpoint folder that `model` names, downloaded if need be, for a conversion elsewhere.

    Raises what `obtain` raises, and UsageError for what is no checkpoint but a GGUF already.
    """
    path = local.path_of(model)
    if path and local.is_folder(path):
        return Checkpoint(path, path.resolve().name)
    if path:
        local.gguf_file(path)
        raise UsageError(f"{path} is a GGUF already", hint=f"run it: portable chat {path}")
    wish = replace(wish, offline=wish.offline or hub.offline_by_environment())
    targets, wish = remote.targets_of(remote.ref(model), wish)
    return remote.checkpoint(remote.find(targets, wish), wish)
