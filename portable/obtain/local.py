"""Files and folders of this disk as models, and the conversion into the store; knows no hub."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import convert
from portable import catalogue, gguf, lfs, store
from portable.errors import CheckpointError, ModelFileError, UsageError
from portable.obtain.model import Checkpoint, Model, Wish
from portable.verify import accepting


def path_of(text: str) -> Path | None:
    """The path that `text` is, if it is there or cannot be anything else; None for other names."""
    if not text:
        return None
    try:
        path = Path(text).expanduser()
        path.stat()
        return path
    except (OSError, ValueError, RuntimeError):
        suffix = text.lower().endswith((".gguf", ".partial"))
        return Path(text) if suffix or text.startswith(("/", "./", "../", "~")) else None


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long; what opens it next says so
        return False


def file(path: Path, wish: Wish) -> Model:
    """A GGUF in its place. It has the quant that it has: asking for another is a mistake."""
    if wish.quant or wish.revision:
        raise UsageError(
            f"{path} is used as it is: a quant or revision cannot be chosen",
            hint="they are for checkpoints and hub models",
        )
    return Model(gguf_file(path), gguf.stem(path), source=f"file {path}")


def gguf_file(path: Path) -> Path:
    """`path`, or the first file of its split model, if all is there and begins like a GGUF.

    What is inside is judged by who loads it.
    """
    every = gguf.shards(path)
    _check_file(path)
    gguf.check_shards(path)
    if names := ", ".join(pointer.name for pointer in lfs.pointers(every)):
        raise ModelFileError(
            f"{names}: git-lfs pointers, not the model", hint=f"run: {lfs.pull(path.parent)}"
        )
    for shard in every:
        _check_file(shard)
        if _first_bytes(shard) != gguf.MAGIC:
            raise ModelFileError(
                f"{shard} is not a GGUF file",
                hint="give a .gguf file, a checkpoint folder or a hub id",
            )
    return every[0]


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}", hint=catalogue.hint(path.stem)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot open {path}: {error}") from error
    if not stat.S_ISREG(mode):
        raise ModelFileError(f"{path} is not a regular file", hint="give the path of a .gguf file")
    if path.suffix == ".partial":
        raise ModelFileError(
            f"{path} is an unfinished download or conversion", hint="run the conversion again"
        )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(len(gguf.MAGIC))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def folder(path: Path, wish: Wish) -> Model:
    if (path / "config.json").is_file():
        return _convert_folder(path, wish)
    found = [p for p in path.glob("*.gguf") if gguf.is_model(p.name)]
    files = sorted({p if p.is_dir() else gguf.shards(p)[0] for p in found})
    if len(files) == 1:
        return file(files[0], wish)
    if files:
        names = ", ".join(f.name for f in files[:8])
        raise UsageError(f"{path} holds {len(files)} GGUF files", hint=f"name one of: {names}")
    if (path / "adapter_config.json").is_file():
        raise UsageError(
            f"{path} holds a LoRA adapter",
            hint=f"portable convert {path}, then run its base with --adapter and that file",
        )
    raise CheckpointError(
        f"{path} has no config.json and no .gguf file",
        hint="give the folder of a checkpoint, with config.json, tokenizer and safetensors files",
    )


def _convert_folder(path: Path, wish: Wish) -> Model:
    """Converted once for each state of the folder's files and each quant."""
    real = path.resolve()
    quant = wish.quant or convert.DEFAULT_QUANT
    record = store.Record("local", str(real), quant, file="", commit=state(real))
    found = _converted(record)
    if not found:
        with store.turn("local", str(real), None, wish.waiting(real.name)):
            source = Checkpoint(real, real.name)
            found = _converted(record) or convert_into_store(source, record, wish)
    return Model(found.path, real.name, source=f"{found.quant} of the folder {path}")


def _converted(record: store.Record) -> store.Record | None:
    found = store.find(record.hub, record.repo, record.quant)
    return found if found and found.commit == record.commit else None


def state(folder: Path) -> str:
    """A digest of names, sizes and times of what a conversion reads: another one means changed."""
    digest = hashlib.sha256()
    for path in sorted({p for pattern in convert.wanted_files() for p in folder.glob(pattern)}):
        info = path.stat()
        name = path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape")
        digest.update(b"%s\0%d\0%d\n" % (name, info.st_size, info.st_mtime_ns))
    return digest.hexdigest()[:32]


def convert_into_store(source: Checkpoint, record: store.Record, wish: Wish) -> store.Record:
    """Convert into the store, then write the record: only then the model is there."""
    name = source.name
    file_name = convert.default_output_name(name, record.quant)
    output = store.target(record.hub, record.repo, file_name, record.revision)
    wish.say(f"converting {name} to {record.quant}")
    accept = accepting(wish.say, wish.report, brief=True)
    convert.convert(
        source.folder,
        output,
        convert.Options(quant=record.quant, name=name, accept=accept),
        progress=lambda p: wish.report(p.phase, p.done_bytes, p.total_bytes, p.tensor or ""),
        remote=source.weights,
    )
    done = replace(record, file=str(output), converter=_version())
    store.save(done)
    return done


def _version() -> str:
    try:
        return version("portable-llm")
    except PackageNotFoundError:
        return "checkout"
