"""A checkpoint folder: its JSON files and its tensors by name; knows no architecture, no GGUF."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from convert.json_text import parse
from convert.remote import Remote, RemoteFile
from convert.safetensors_file import SafetensorsFile, Stored, TensorFile
from portable import lfs
from portable.errors import CheckpointError

INDEX = "model.safetensors.index.json"
WEIGHTS = "model*.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
READ = {".safetensors", ".json", ".model", ".txt", ".jinja"}
MAX_BYTES = 64 << 20  # of one small file; the largest tokenizer.json known has 35 MB


class Checkpoint:
    """A folder as a hub serves it. Nothing in it is ever executed: no pickle, no `auto_map`.

    `remote` are weights that belong in it and are somewhere else.
    """

    def __init__(self, folder: Path, remote: Iterable[Remote] = ()) -> None:
        try:
            mode = folder.stat().st_mode
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(
                f"{folder!s:.200} cannot be used: {reason}", hint="name a checkpoint folder"
            ) from error
        if not stat.S_ISDIR(mode):
            raise CheckpointError(
                f"{folder} is not a folder", hint="name the folder that holds config.json"
            )
        _check_pulled(folder)
        self.folder = folder
        self.remote = {file.name: file for file in remote}
        self._seen: dict[str, tuple[int, int]] = {}  # size and time of small files when first read
        self.files: list[TensorFile] = []
        self.tensors: dict[str, Stored] = {}

    @property
    def config(self) -> dict[str, Any]:
        found = self.json("config.json")
        if found is None:
            raise CheckpointError(
                f"{self.folder} has no config.json", hint="name a complete checkpoint folder"
            )
        return found

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def data(self, name: str) -> bytes | None:
        """A small file of the folder, or None when it is not there."""
        try:
            info = (self.folder / name).stat()
            if not stat.S_ISREG(info.st_mode):  # to read a pipe or a device may never end
                raise CheckpointError(f"{name} is not an ordinary file")
            if info.st_size > MAX_BYTES:
                raise CheckpointError(f"{name} has {info.st_size >> 20} MB, which is too large")
            self._seen.setdefault(name, (info.st_size, info.st_mtime_ns))
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:  # a name that another file gives may be no name
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"{name} cannot be read: {reason}") from error

    def text(self, name: str) -> str | None:
        """A text file of the folder, or None when it is not there."""
        data = self.data(name)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{name} cannot be read: {error}") from error

    def any_json(self, name: str) -> Any:
        """Any JSON value of the folder, or None when the file is not there."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise CheckpointError(
                f"{name} is not valid JSON: {error}", hint="download this file again"
            ) from error

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the folder, or None when the file is not there."""
        found = self.any_json(name)
        if not isinstance(found, dict) and self.has(name):
            raise CheckpointError(f"{name} is not a JSON object", hint="download this file again")
        return found  # type: ignore[no-any-return]

    def open_tensors(self) -> None:
        """Fills `tensors` from one file or from shards; every problem is said before any work."""
        index = self._index()
        for name in self._shards(index):
            far = self.remote.get(name)
            file = RemoteFile(far) if far else SafetensorsFile(self.folder / name)
            self.files.append(file)
            for tensor in file.tensors.values():
                if tensor.name in self.tensors:
                    other = self.tensors[tensor.name].file.name
                    raise CheckpointError(f"tensor {tensor.name} is in {other} and in {name}")
                self.tensors[tensor.name] = tensor
        self._hold_against(index)

    def close(self) -> None:
        for file in self.files:
            file.close()

    def identities(self) -> Iterator[bytes]:
        """What tells these weights from all others; nothing remote is read for it."""
        for file in self.files:
            yield file.identity

    def check_unchanged(self) -> None:
        changed = [file.name for file in self.files if not file.unchanged()]
        changed += [name for name, seen in self._seen.items() if self._stamp(name) != seen]
        if changed:
            raise CheckpointError(
                f"{changed[0]} changed while it was read",
                hint="let the download end, then convert again",
            )

    def _stamp(self, name: str) -> tuple[int, int] | None:
        try:
            info = (self.folder / name).stat()
        except OSError:
            return None
        return info.st_size, info.st_mtime_ns

    def _index(self) -> dict[str, str] | None:
        index = self.json(INDEX)
        if index is None:
            return None
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{INDEX} has no weight_map", hint="download this file again")
        for tensor, shard in weight_map.items():
            if not isinstance(shard, str) or not is_plain_name(shard):
                raise CheckpointError(f"{INDEX} sends {tensor} to {shard!r}, which is no file name")
        return weight_map

    def _shards(self, index: dict[str, str] | None) -> list[str]:
        here = {path.name for path in self.folder.glob(WEIGHTS)}
        found = sorted(here | {name for name in self.remote if fnmatchcase(name, WEIGHTS)})
        if index is not None:
            wanted = sorted(set(index.values()))
        elif found:
            wanted = sorted({*found, *siblings(found)})
        else:
            raise self._no_weights()
        missing = [name for name in wanted if not (name in self.remote or self.has(name))]
        if missing:
            raise CheckpointError(
                f"{len(missing)} of {len(wanted)} weight files missing: {', '.join(missing[:3])}",
                hint="download the checkpoint again; what is there is kept",
            )
        return wanted

    def _no_weights(self) -> CheckpointError:
        if any(next(self.folder.glob(pattern), None) for pattern in PICKLES):
            return CheckpointError(
                "the weights are pickle files, which can run code when they are opened",
                hint="needs safetensors: take a revision or a copy of the model that has them",
            )
        if next(self.folder.glob("*.gguf"), None):
            return CheckpointError(
                f"{self.folder} holds a GGUF already", hint="use that .gguf file directly"
            )
        return CheckpointError(
            f"{self.folder} has no model.safetensors", hint="name a complete checkpoint folder"
        )

    def _hold_against(self, index: dict[str, str] | None) -> None:
        if index is None:
            return
        absent = [n for n, f in index.items() if getattr(self.tensors.get(n), "file", None) is None]
        extra = [name for name in self.tensors if name not in index]
        for names, what in ((absent, "names tensors that no shard has"), (extra, "lacks tensors")):
            if names:
                raise CheckpointError(
                    f"{INDEX} {what}: {', '.join(names[:3])} ({len(names)} in all)",
                    hint="download the checkpoint again",
                )


def _check_pulled(folder: Path) -> None:
    """A clone made without git-lfs is told at once which files it lacks."""
    files = (path for path in sorted(folder.glob("*")) if path.suffix in READ)
    names = [path.name for path in lfs.pointers(files)]
    if names:
        what = "is a git-lfs pointer" if len(names) == 1 else "are git-lfs pointers"
        raise CheckpointError(
            f"{', '.join(names)} {what}, not the content", hint=f"run: {lfs.pull(folder)}"
        )


def is_plain_name(name: str) -> bool:
    """A file name of this folder: no path, no drive, no NUL."""
    return (
        name.endswith(".safetensors")
        and not set(name) & set('/\\:"<>|?*')
        and not name.startswith(".")
        and len(name) <= 200
        and name.isprintable()
    )


def siblings(found: list[str]) -> Iterator[str]:
    """All shards of the series that a name like `model-00001-of-00003.safetensors` belongs to."""
    for name in found:
        if match := SHARD.fullmatch(name):
            count = min(int(match[2]), 9999)
            yield from (f"model-{i:05d}-of-{match[2]}.safetensors" for i in range(1, count + 1))
