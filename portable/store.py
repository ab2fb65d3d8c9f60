"""Where models lie on this disk and what is there; knows no hub and converts nothing.

    <home>/models/<id made safe>/<name>-<QUANT>.gguf        a converted model
    <home>/models/<id made safe>/<name>-<QUANT>.json        where it came from

A file without its record does not exist for anybody: the record is written last. The file of a
ready GGUF stays in the hub client's own cache, and its record points there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from portable import gguf
from portable.errors import DiskError, UsageError
from portable.folders import cache, home
from portable.platforms import is_reserved

RECORD = ".json"
_LEFT = (".partial", ".journal", ".new")


@dataclass(frozen=True)
class Record:
    """One model of the store.

    `hub` is `ms`, `hf` or `local`; `repo` `org/name` or a folder's path; `revision` what was asked
    for, `commit` what that was (for a folder: the state of its files). `file` is the first of a
    split model. `sha256` is the hub's, of a ready GGUF in one file.
    `own` is false for a file that was in the hub client's cache before it was asked for here.
    """

    hub: str
    repo: str
    quant: str
    file: str
    revision: str | None = None
    commit: str | None = None
    converter: str | None = None
    licence: str | None = None
    sha256: str | None = None
    own: bool = True

    @property
    def path(self) -> Path:
        return Path(self.file)


def prompts() -> Path:
    """The folder for prompts that were read before: a cache, which may be deleted at any time."""
    return cache() / "prompts"


def tensors() -> Path:
    """The folder, made, for weights that other machines sent to this worker: a cache, too."""
    folder = cache() / "tensors"
    _make(folder)
    return folder


def plans() -> Path:
    """The folder for plans that ran out of memory: a cache as well."""
    return cache() / "plans"


def conversation(model: str) -> Path:
    """Where the last conversation with this model is kept."""
    return home() / "chats" / f"{safe(model)}.json"


def said() -> list[Path]:
    """All files that hold what was said to models: prompts, whole or not, and conversations."""
    patterns = (prompts(), "*.prompt"), (prompts(), ".*.partial"), (home() / "chats", "*.json")
    return sorted(path for folder, pattern in patterns for path in folder.glob(pattern))


def safe(text: str) -> str:
    """`text` as one file name on every system; different texts stay different names."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "--", text).strip(".-")[:100] or "model"
    if is_reserved(short):
        short = f"model-{short}"
    if short == text.replace("/", "--") and "--" not in text:
        return short
    return f"{short}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def slot(hub: str, repo: str, revision: str | None = None) -> Path:
    """The folder for one model, not made yet."""
    name = f"{hub}/{repo}" + (f"@{revision}" if revision else "")
    return home() / "models" / safe(name)


def target(hub: str, repo: str, file_name: str, revision: str | None = None) -> Path:
    """Where a converted model goes; its folder is made."""
    if Path(file_name).name != file_name:
        raise UsageError(f"not a file name: {file_name!r}")
    folder = slot(hub, repo, revision)
    _make(folder)
    return folder / file_name


@contextmanager
def turn(hub: str, repo: str, revision: str | None, waiting: Callable[[], None]) -> Iterator[bool]:
    """The right to make this model; true if another process had it first, which is waited for.

    `waiting` is called once before that. The system frees the lock of a process that dies.
    """
    folder = home() / "locks"
    _make(folder)
    lock = FileLock(folder / f"{slot(hub, repo, revision).name}.lock")
    try:
        waited = not _acquired(lock)
        if waited:
            waiting()
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        raise DiskError(f"cannot lock {lock.lock_file}: {error.strerror}", hint=_HINT) from error
    try:
        yield waited
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
        return True
    except Timeout:
        return False


def save(record: Record) -> Path:
    """Write the record of a complete model, atomically; returns the record's own path."""
    folder = slot(record.hub, record.repo, record.revision)
    _make(folder)
    path = folder / (record.path.stem + RECORD)
    write(path, json.dumps(asdict(record), indent=2, ensure_ascii=False))
    return path


def write(path: Path, text: str, *, mode: int = 0o666) -> None:
    """All of `text`, durably, or the file as it was. `mode` is a new file's, less the umask."""
    half = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        half.touch(mode, exist_ok=False)
        with half.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}", hint=_HINT) from error
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)


def of(hub: str, repo: str, revision: str | None = None) -> list[Record]:
    """What is here of one model: whole, and with the file still in its place."""
    wanted = (hub, repo, revision)
    found = _records(slot(hub, repo, revision))
    return [r for r in found if (r.hub, r.repo, r.revision) == wanted]


def find(hub: str, repo: str, quant: str, revision: str | None = None) -> Record | None:
    """The model in that quant, if it is here."""
    return next((r for r in of(hub, repo, revision) if r.quant == quant), None)


def listing() -> list[Record]:
    """Everything in the store, by repository and quant."""
    root = home() / "models"
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return sorted((r for f in folders for r in _records(f)), key=lambda r: (r.repo, r.quant))


def remove(record: Record) -> list[Path]:
    """Forget the model and delete its files, if they came to this disk for it; returns those."""
    folder = slot(record.hub, record.repo, record.revision)
    delete([folder / (record.path.stem + RECORD)])
    files = delete(gguf.shards(record.path)) if _deletable(record, folder) else []
    with suppress(OSError):  # other models are in it
        folder.rmdir()
    return files


def delete(files: list[Path]) -> list[Path]:
    try:
        for path in files:
            _unlink(path)
    except OSError as error:
        raise DiskError(f"cannot delete {path}: {error.strerror}") from error
    return files


def _deletable(record: Record, folder: Path) -> bool:
    """What was converted lies in the store; anything else is only said to be ours."""
    return record.path.parent == folder if record.converter else record.own


def _unlink(path: Path) -> None:
    """A file; of Hugging Face's cache also the blob, unless another snapshot links to it."""
    blob = path.resolve() if path.is_symlink() else None
    path.unlink(missing_ok=True)
    if blob and blob.parent.name == "blobs":
        snapshots = (blob.parents[1] / "snapshots").rglob("*")
        if not any(link.is_symlink() and link.resolve() == blob for link in snapshots):
            blob.unlink(missing_ok=True)


def partials() -> list[Path]:
    """What conversions that were broken off left in the store, journals too."""
    hidden = (home() / "models").glob("*/.*")
    return [path for path in hidden if path.suffix in _LEFT and path.is_file()]


def _records(folder: Path) -> list[Record]:
    found = (_read(path) for path in sorted(folder.glob("*" + RECORD)))
    return [r for r in found if r and all(path.is_file() for path in gguf.shards(r.path))]


def _read(path: Path) -> Record | None:
    """A record; damaged ones count as absent, so that the model is made again."""
    names = {field.name for field in fields(Record)}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{key: value for key, value in data.items() if key in names})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


_HINT = "free some space, or put the store elsewhere with PORTABLE_HOME"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make {folder}: {error.strerror}", hint=_HINT) from error
