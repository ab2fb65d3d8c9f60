"""The models known by a short name, read from `models/*.toml`; knows no hub and no store.

    qwen2.5-0.5b-instruct  ->  Entry(modelscope="Qwen/Qwen2.5-0.5B-Instruct", ...)

The names of the default models live here and nowhere else.
"""

from __future__ import annotations

import difflib
import importlib.util
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

DEFAULT = "qwen2.5-0.5b-instruct"
EMBEDDED_DEFAULT = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Embedded:
    """A GGUF inside an installed Python package, which is never imported."""

    package: str
    file: str
    quant: str

    def path(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder, self.file)
            if path.is_file():
                return path
        return None


@dataclass(frozen=True)
class Entry:
    """One known model; `modelscope` and `huggingface` are `org/name` there.

    `architecture` and `context`, the length it was trained for in tokens, are config.json's,
    `sampling` is generation_config.json's.
    """

    name: str
    modelscope: str
    huggingface: str
    architecture: str
    licence: str
    quant: str
    context: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    embedded: Embedded | None = None

    def on(self, hub: str) -> str:
        """Its `org/name` on that hub, `ms` or `hf`."""
        return self.modelscope if hub == "ms" else self.huggingface

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def folder() -> Path:
    """`portable/_models` in an installed wheel, `models/` beside `portable/` in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"


def read(path: Path) -> Entry:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    embedded = data.pop("embedded", None)
    aliases = tuple(data.pop("aliases", ()))
    return Entry(**data, aliases=aliases, embedded=Embedded(**embedded) if embedded else None)


@cache
def load() -> dict[str, Entry]:
    """Every known model by its name, in alphabetical order."""
    return {entry.name: entry for entry in map(read, sorted(folder().glob("*.toml")))}


@cache
def _names() -> dict[str, Entry]:
    return {name.casefold(): entry for entry in load().values() for name in entry.names}


@cache
def _ids() -> dict[str, Entry]:
    entries = load().values()
    return {repo.casefold(): e for e in entries for repo in (e.modelscope, e.huggingface)}


def find(name: str) -> Entry | None:
    """By name or alias, in any letter case."""
    return _names().get(name.strip().casefold())


def by_id(repo: str) -> Entry | None:
    """By the `org/name` that a model has on either hub, in any letter case."""
    return _ids().get(repo.casefold())


def similar(text: str, count: int = 3) -> list[str]:
    """Known names that look like `text`, best first: for "did you mean"."""
    wanted = text.casefold().rpartition("/")[2]
    return difflib.get_close_matches(wanted, load(), count, cutoff=0.6)


def hint(text: str) -> str:
    """What to do about a name that nobody knows."""
    close = similar(text)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return (
        "MODEL is a .gguf file, a checkpoint folder, a hub id like Qwen/Qwen3-0.6B or a known name"
    )
