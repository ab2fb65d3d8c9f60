"""The models on this disk, as `list`, `show` and `rm` speak of them; prints nothing.

A model of the store has a record, and only those can be removed. Other programs' files are shown.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.quants import DEFAULT_QUANT
from portable import catalogue, elsewhere, facts, gguf, hub, store
from portable.errors import ModelFileError, UsageError
from portable.obtain import remote

BUSY_SECONDS = 60.0


@dataclass(frozen=True)
class Item:
    """`name` can be typed where MODEL stands; `source` is a hub, a folder or a program."""

    name: str
    source: str
    path: Path
    record: store.Record | None = None

    def facts(self) -> dict[str, Any]:
        """For JSON. A file that cannot be read has `error` in place of what is inside."""
        record = self.record
        out: dict[str, Any] = {
            "model": self.name,
            "source": self.source,
            "revision": record.revision if record else None,
            "commit": record.commit if record and record.hub != "local" else None,
            "path": str(self.path),
            "files": len(gguf.shards(self.path)),
            "sha256": record.sha256 if record else None,
        }
        try:
            modified = time.localtime(self.path.stat().st_mtime)
            out |= {"modified": time.strftime("%Y-%m-%dT%H:%M:%S%z", modified)}
            out |= facts.of(self.path)
        except (ModelFileError, OSError) as error:
            out |= {"error": getattr(error, "message", None) or str(error)}
        if record:
            out |= {"quant": record.quant, "licence": record.licence or out.get("licence")}
        return out

    def checkpoint(self) -> Path | None:
        """Where the weights that it was converted from lie in a hub client's cache."""
        record = self.record
        if not record or not record.converter or record.hub == "local":
            return None
        folder = hub.connect(record.hub).cached(record.repo, record.revision)
        return folder if folder and any(folder.glob("*.safetensors")) else None

    def remove(self) -> list[Path]:
        """Forget it and delete its files, if they came to this disk for it; returns those."""
        assert self.record, "only the store's own"
        return store.remove(self.record)


def items(*, everywhere: bool = False) -> list[Item]:
    """The store's models, and then those that other programs hold."""
    own = [_item(record) for record in store.listing()]
    if not everywhere:
        return own
    known = {item.path.resolve() for item in own}
    return own + [
        Item(str(held.path), f"{held.app}: {held.name}", held.path)
        for held in elsewhere.everything()
        if held.path.resolve() not in known
    ]


def _item(record: store.Record) -> Item:
    if record.hub == "local":
        return Item(record.repo, "folder", record.path, record)
    scheme = "hf://" if record.hub == "hf" else ""
    revision = f"@{record.revision}" if record.revision else ""
    name = f"{scheme}{record.repo}{revision}:{record.quant}"
    return Item(name, hub.TITLES[record.hub], record.path, record)


def matching(model: str) -> list[Item]:
    """The store's models that `model` means: by id, catalogue name, folder, file, or as listed.

    Raises UsageError when there is none.
    """
    own = items()
    found = [i for i in own if i.name == model or _is_path(i, model)] or _by_ref(own, model)
    if not found:
        for item in items(everywhere=True):
            if item.record is None and model in (item.name, item.path.name, _name_there(item)):
                raise UsageError(
                    f"{item.path} belongs to {item.source.partition(':')[0]}",
                    hint="it can be run from here, and deleted there",
                )
        names = sorted({i.name for i in own})[:8]
        hint = f"here are: {', '.join(names)}" if names else "nothing is pulled yet"
        raise UsageError(f"no model {model!r} in the store", hint=hint)
    return found


def _name_there(item: Item) -> str:
    return item.source.partition(": ")[2]


def _is_path(item: Item, text: str) -> bool:
    """The file's own path or name, or the folder that it was converted from."""
    if text in (item.path.name, gguf.stem(item.path)):
        return True
    try:
        path = Path(text).expanduser().absolute()
        folder = item.record and item.record.hub == "local" and Path(item.record.repo)
        return path == item.path or bool(folder and path.resolve() == folder)
    except (OSError, ValueError, RuntimeError):
        return False


def _by_ref(own: list[Item], model: str) -> list[Item]:
    ref = remote.ref(model)
    entry = catalogue.find(ref.repo)
    found = []
    for item in own:
        record = item.record
        assert record, "an item of the store"
        repo = entry.on(record.hub) if entry else ref.repo
        if (
            record.repo.casefold() == repo.casefold()
            and ref.hub in (None, record.hub)
            and ref.revision in (None, record.revision)
            and (ref.quant or record.quant).casefold() == record.quant.casefold()
        ):
            found.append(item)
    return found


def describe(model: str) -> dict[str, Any]:
    """What `show` shows: of a model on this disk, else what the catalogue knows of it."""
    try:
        return one(model).facts()
    except UsageError:
        entry = catalogue.find(model)
        if not entry:
            raise
        hubs = {hub.TITLES[key]: entry.on(key) for key in hub.TITLES}
        known = {name: getattr(entry, name) for name in ("architecture", "licence", "quant")}
        return {
            "model": entry.name,
            "source": "not on this disk",
            **hubs,
            **known,
            "context": entry.context,
            "sampling": entry.sampling,
        }


def one(model: str) -> Item:
    """The model that `chat` would take of those here: of several quants the default one.

    Also a GGUF by its path, and another program's by its name there. Raises UsageError when nothing
    is here.
    """
    path = _file(model)
    if path:
        others = (item for item in items(everywhere=True) if item.path == path)
        return next(others, Item(str(path), "file", path))
    try:
        found = matching(model)
    except UsageError:
        for item in items(everywhere=True):
            if not item.record and model in (item.path.name, _name_there(item)):
                return item
        raise
    entry = catalogue.find(model) or catalogue.by_id(model)
    wanted = entry.quant if entry else DEFAULT_QUANT
    return next((i for i in found if i.record and i.record.quant == wanted), found[0])


def _file(text: str) -> Path | None:
    try:
        path = Path(text).expanduser().absolute()
        return gguf.shards(path)[0] if path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


@dataclass(frozen=True)
class Partial:
    """What a download or conversion that was broken off left here; or what was said to models."""

    path: Path
    size: int

    def checkpoint(self) -> None:
        """It has none."""

    def remove(self) -> list[Path]:
        """Raises DiskError."""
        return store.delete([self.path])


def said() -> list[Partial]:
    """Prompts that were read, and conversations."""
    found = []
    for path in store.said():
        with suppress(FileNotFoundError):  # another process makes room
            found.append(Partial(path, path.stat().st_size))
    return found


def partials() -> list[Partial]:
    """Of this program only; one that was written to a moment ago is somebody's work."""
    found = []
    for path in sorted({*store.partials(), *hub.partials()}):
        with suppress(OSError):
            info = path.stat()
            if time.time() - info.st_mtime > BUSY_SECONDS:
                found.append(Partial(path, info.st_size))
    return found
