"""LoRA adapters: which folder is one, and which model it was trained on; knows no engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert.checkpoint import Checkpoint
from portable import hub
from portable.errors import UsageError
from portable.obtain import local, remote
from portable.obtain.model import Say, Wish

SETTINGS = "adapter_config.json"
# Where a base is named: file, keys of its name, key of its revision. ms-swift's says what was
# asked for; PEFT's often the path of a cache on the machine that trained.
NAMED_IN = (
    ("args.json", ("model", "model_id_or_path"), "model_revision"),
    (SETTINGS, ("base_model_name_or_path",), "revision"),
)


def adapter_folder(model: str) -> Path | None:
    """The folder that `model` names, if it holds a LoRA adapter and no model of its own."""
    path = local.path_of(model)
    if not path or not local.is_folder(path) or not (path / SETTINGS).is_file():
        return None
    return None if any(path.glob("model*.safetensors")) else path


def base_name(folder: Path, say: Say) -> str:
    """The base that the adapter's own files name. UsageError when it cannot be had from here."""
    files, seen = Checkpoint(folder), ""
    for file, keys, revision in NAMED_IN:
        found = files.json(file) or {}
        for name in (found.get(key) for key in keys):
            if isinstance(name, str) and name and _is_here(name):
                base = _full(name, found.get(revision), found.get("use_hf"))
                say(f"the adapter's base is {base}, as {file} says")
                return base
            seen = seen or str(name or "")
    what = f"names its base as {seen[:100]!r}, which is not here" if seen else "names no base"
    raise UsageError(f"{folder} {what}", hint="name the model with --adapter-of")


def _is_here(name: str) -> bool:
    """A folder of this disk, or an id that a hub may know."""
    path = local.path_of(name)
    return local.is_folder(path) if path else hub.is_id(name.partition("://")[2] or name)


def _full(name: str, revision: Any, huggingface: Any) -> str:
    if local.path_of(name):
        return name
    at = f"@{revision}" if isinstance(revision, str) and hub.is_revision(revision) else ""
    return ("hf://" if huggingface is True and "://" not in name else "") + name + at


def fetch_config(model: str, wish: Wish) -> Path:
    """A folder with the config.json of `model`; of a hub's repository nothing else is fetched.

    Raises UsageError and NetworkError.
    """
    path = local.path_of(model)
    if path and local.is_folder(path):
        return path
    if path:
        raise UsageError(f"{path} is no checkpoint folder", hint="name the base's folder or hub id")
    targets, wish = remote.targets_of(remote.ref(model), wish)
    found = remote.find(targets, wish)
    if found.folder:
        return found.folder
    assert found.listing, "found on a hub"
    files = [file for file in found.listing.files if file.path == "config.json"]
    if not files:
        raise UsageError(f"{found.target.repo} has no config.json", hint="name another base")
    wish.say(f"reading config.json of {found.target.repo} from {found.where}")
    return found.source.fetch(found.listing, files, wish.report).folder
