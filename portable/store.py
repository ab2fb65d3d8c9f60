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
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import platformdirs

from portable import gguf
from portable.errors import DiskError, UsageError

RECORD = ".json"


@dataclass(frozen=True)
class Record:
    """One model of the store.

    `hub` is `ms`, `hf` or `local`; `repo` `org/name` or a folder's path; `revision` what was asked
    for, `commit` what that was (for a folder: the state of its files). `file` is the first of a
    split model. `sha256` is the hub's, of a ready GGUF in one file.
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

    @property
    def path(self) -> Path:
        return Path(self.file)


def home() -> Path:
    """`PORTABLE_HOME`, else the user's data folder."""
    given = os.environ.get("PORTABLE_HOME")
    return Path(given).expanduser() if given else platformdirs.user_data_path("portable", False)


def safe(text: str) -> str:
    """`text` as one file name on every system; different texts stay different names."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "--", text).strip(".-")[:100] or "model"
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


def save(record: Record) -> Path:
    """Write the record of a complete model, atomically; returns the record's own path."""
    folder = slot(record.hub, record.repo, record.revision)
    _make(folder)
    path = folder / (record.path.stem + RECORD)
    write(path, json.dumps(asdict(record), indent=2, ensure_ascii=False))
    return path


def write(path: Path, text: str) -> None:
    """All of `text`, durably, or the file as it was."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".", suffix=".partial", delete=False
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}", hint=_HINT) from error


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
