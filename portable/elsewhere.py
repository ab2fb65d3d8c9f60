"""GGUF files that other programs on this machine hold; reads their folders and never writes there.

    of("hf", "Qwen/Qwen3-4B-GGUF")  ->  [Held("LM Studio", ..., path)]

Known are the caches of the hubs' clients and of llama.cpp, LM Studio's folder and Ollama's blobs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from portable import gguf
from portable.errors import ModelFileError

OLLAMA_MODEL = "application/vnd.ollama.image.model"
OLLAMA_HUBS = {"hf.co": "hf", "huggingface.co": "hf", "modelscope.cn": "ms"}


class Held(NamedTuple):
    """A model in its place, which the program calls `name`.

    It came from `hub`, from the repository `repo` if that is known. `file` is what it is called,
    for a blob's own name does not say it.
    """

    app: str
    name: str
    path: Path
    hub: str
    repo: str | None
    file: str


def everything() -> list[Held]:
    """All of them, each file once, by program and name."""
    found: dict[Path, Held] = {}
    for app in APPS:
        for held in app(None):
            found.setdefault(held.path.resolve(), held)
    return sorted(found.values(), key=lambda h: (h.app, h.name, h.path.name))


def of(hub: str, repo: str) -> list[Held]:
    """The whole GGUFs that came from that repository."""
    found: dict[Path, Held] = {}
    for app in APPS:
        for held in app(repo):
            same = held.hub == hub and (held.repo or "").casefold() == repo.casefold()
            if same and _whole(held.path):
                found.setdefault(held.path.resolve(), held)
    return list(found.values())


def _whole(path: Path) -> bool:
    try:
        gguf.check_shards(path)
        return all(gguf.read(shard).tensors for shard in gguf.shards(path))
    except (ModelFileError, OSError):
        return False


def _models(folder: Path, pattern: str = "**/*.gguf") -> Iterator[Path]:
    """The first file of each model below the folder."""
    for path in sorted(folder.glob(pattern)):
        if gguf.is_model(path.name) and gguf.shards(path)[0] == path and _is_file(path):
            yield path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # another user's
        return False


# --- the programs: all that they hold, or for a `repo` at least what they have of it


def lm_studio(repo: str | None) -> Iterator[Held]:
    """`<models>/<publisher>/<repository>/<file>.gguf`, from Hugging Face."""
    for root in _lm_studio_folders():
        for path in _models(root, f"{_case(repo)}/**/*.gguf" if repo else "*/*/**/*.gguf"):
            found = "/".join(path.relative_to(root).parts[:2])
            yield Held("LM Studio", found, path, "hf", found, path.name)


def _lm_studio_folders() -> Iterator[Path]:
    home = Path.home()
    pointer = _text(home / ".lmstudio-home-pointer").strip()
    base = Path(pointer) if pointer else home / ".lmstudio"
    chosen = _json(base / "settings.json").get("downloadsFolder")
    yield Path(chosen) if isinstance(chosen, str) else base / "models"
    yield home / ".cache" / "lm-studio" / "models"


def ollama(repo: str | None) -> Iterator[Held]:
    """`manifests/<host>/<owner>/<name>/<tag>` is JSON that names the blob of the weights."""
    given = os.environ.get("OLLAMA_MODELS")
    service = Path("/usr/share/ollama/.ollama/models")  # its own user's, where Linux installs it
    for root in [Path(given)] if given else [Path.home() / ".ollama" / "models", service]:
        for manifest in sorted((root / "manifests").glob("*/*/*/*")):
            host, owner, name, tag = manifest.relative_to(root / "manifests").parts
            blob = _ollama_blob(manifest, root / "blobs")
            if not blob:
                continue
            if key := OLLAMA_HUBS.get(host):
                file = f"{name}-{tag}.gguf"
                yield Held("Ollama", f"{owner}/{name}:{tag}", blob, key, f"{owner}/{name}", file)
            else:
                shown = name if owner == "library" else f"{owner}/{name}"
                yield Held("Ollama", f"{shown}:{tag}", blob, "ollama", shown, f"{name}-{tag}")


def _ollama_blob(manifest: Path, blobs: Path) -> Path | None:
    layers = _json(manifest).get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict) and layer.get("mediaType") == OLLAMA_MODEL:
            name = str(layer.get("digest")).replace(":", "-")
            path = blobs / name
            return path if path.parent == blobs and _is_file(path) else None
    return None


def llama_cpp(repo: str | None) -> Iterator[Held]:
    """Older versions: `<owner>_<name>_<file>.gguf` in one folder, which no one can take apart."""
    prefix = repo.replace("/", "_") + "_" if repo else ""
    for path in _models(_llama_cpp_folder(), f"{_case(prefix)}*.gguf"):
        yield Held("llama.cpp", path.name, path, "hf", repo, path.name[len(prefix) :])


def _llama_cpp_folder() -> Path:
    if given := os.environ.get("LLAMA_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llama.cpp"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "")) / "llama.cpp"
    return _cache() / "llama.cpp"


def hugging_face(repo: str | None) -> Iterator[Held]:
    """`models--<owner>--<name>/snapshots/<commit>/<file>`, which llama.cpp now uses too."""
    home = Path(os.environ.get("HF_HOME") or _cache() / "huggingface")
    names = ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    named = [os.environ.get(name) for name in names]
    name = f"models--{_case(repo).replace('/', '--')}" if repo else "models--*--*"
    for root in [*(Path(given) for given in named if given), home / "hub"]:
        for path in _models(root, f"{name}/snapshots/*/**/*.gguf"):
            folder = path.relative_to(root).parts[0]
            found = folder.removeprefix("models--").replace("--", "/", 1)
            yield Held("Hugging Face cache", found, path, "hf", found, path.name)


def modelscope(repo: str | None) -> Iterator[Held]:
    """`models/<owner>--<name>/snapshots/<revision>/<file>`; older: `models/<owner>/<name>/<file>`,
    with `___` for the dots of the name."""
    given = os.environ.get("MODELSCOPE_CACHE")
    base = Path(given) if given else _cache() / "modelscope"
    new = _case(repo).replace("/", "--") if repo else "*--*"
    old = _case(repo).replace(".", "___") if repo else "*/*"
    for root in (base / "models", base / "hub" / "models"):
        for path in _models(root, f"{new}/snapshots/*/**/*.gguf"):
            found = path.relative_to(root).parts[0].replace("--", "/", 1)
            yield Held("ModelScope cache", found, path, "ms", found, path.name)
        for path in _models(root, f"{old}/**/*.gguf"):
            owner, name = path.relative_to(root).parts[:2]
            if "--" not in owner:
                found = f"{owner}/{name.replace('___', '.')}"
                yield Held("ModelScope cache", found, path, "ms", found, path.name)


APPS: list[Callable[[str | None], Iterator[Held]]] = [
    hugging_face,
    modelscope,
    lm_studio,
    llama_cpp,
    ollama,
]


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path.home() / ".cache"


def _case(text: str) -> str:
    """A pattern for this text in any letter case: ids are the same model in any."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _json(path: Path) -> dict[str, object]:
    try:
        data = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
