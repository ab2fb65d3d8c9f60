"""Turns what the user calls a model into one GGUF file on this disk; knows no engine, no terminal.

    file.gguf                used where it lies
    folder                   converted once into the store (or its only .gguf is used)
    catalogue name, hub id   from the store, else downloaded, and converted unless it is a GGUF
    nothing                  the default model when a hub answers, else the embedded one

A model that the user named is never replaced by another.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import convert
from portable import catalogue, hub, store
from portable.errors import CheckpointError, ModelFileError, NetworkError, UsageError
from portable.progress import Report, silent

DEFAULT_QUANT = "Q4_K_M"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """A GGUF at `path`. `id` is the name it is served by, `full_id` its `org/name` on a hub;
    `context` in tokens where the catalogue knows it; `source` one line on where it came from."""

    path: Path
    id: str
    full_id: str | None = None
    aliases: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    context: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Wish:
    """What was asked for, beside the name. `quant` None: the model's own default."""

    quant: str | None
    revision: str | None
    offline: bool
    say: Say
    report: Report


def obtain(
    model: str | None,
    *,
    quant: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    say: Say,
    progress: Report = silent,
) -> Model:
    """The GGUF of `model`, ready to load.

    Raises UsageError (no such model), ModelFileError, CheckpointError, UnsupportedModel, DiskError
    and NetworkError, each with what to do next in `hint`.
    """
    offline = offline or hub.offline_by_environment()
    wish = Wish(convert.quant_name(quant) if quant else None, revision, offline, say, progress)
    if model is None:
        return _default(wish)
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder(path, wish)
    if _looks_local(model) or path.exists():
        return Model(_gguf_file(path), path.stem, source=f"file {path}")
    # A known name may hold a colon of its own, like `qwen3:4b`.
    return _named(hub.Ref(None, model) if catalogue.find(model) else hub.parse(model), wish)


def _looks_local(text: str) -> bool:
    return text.lower().endswith((".gguf", ".partial")) or text.startswith(("/", "./", "../", "~"))


# --- files and folders


def _gguf_file(path: Path) -> Path:
    """`path` if it is a regular, complete file; what is inside is judged by who loads it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}", hint=_did_you_mean(path.stem)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot open {path}: {error}") from error
    if not stat.S_ISREG(mode):
        raise ModelFileError(f"{path} is not a regular file", hint="give the path of a .gguf file")
    if path.suffix == ".partial":
        raise ModelFileError(
            f"{path} is an unfinished download or conversion", hint="run the conversion again"
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelFileError(
                f"{path} is not a GGUF file",
                hint="give a .gguf file, a checkpoint folder or a hub id",
            )
    return path


def _folder(path: Path, wish: Wish) -> Model:
    if (path / "config.json").is_file():
        return _convert_folder(path, wish)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return Model(_gguf_file(files[0]), files[0].stem, source=f"file {files[0]}")
    if files:
        names = ", ".join(file.name for file in files[:8])
        raise UsageError(f"{path} holds {len(files)} GGUF files", hint=f"name one of: {names}")
    raise CheckpointError(
        f"{path} has no config.json and no .gguf file",
        hint="give the folder of a checkpoint, with config.json, tokenizer and safetensors files",
    )


def _convert_folder(path: Path, wish: Wish) -> Model:
    """Converted once for each state of the folder's files and each quant."""
    real = path.resolve()
    quant = wish.quant or DEFAULT_QUANT
    record = store.Record("local", str(real), quant, file="", commit=_state(real))
    found = store.find("local", str(real), quant)
    if not found or found.commit != record.commit:
        found = _convert(real, record, real.name, wish)
    return Model(found.path, real.name, source=f"{found.quant} of the folder {path}")


def _state(folder: Path) -> str:
    """A digest of names, sizes and times: another one means that the folder was changed."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        info = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _convert(source: Path, record: store.Record, name: str, wish: Wish) -> store.Record:
    """Convert into the store, then write the record: only then the model is there."""
    file_name = convert.default_output_name(name, record.quant)
    output = store.target(record.hub, record.repo, file_name, record.revision)
    wish.say(f"converting {name} to {record.quant}")
    convert.convert(
        source,
        output,
        quant=record.quant,
        name=name,
        progress=lambda p: wish.report(p.phase, p.done_bytes, p.total_bytes, p.tensor or ""),
    )
    done = replace(record, file=str(output), converter=_version())
    store.save(done)
    return done


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  30 ms, rarely needed

    try:
        return version("portable-llm")
    except PackageNotFoundError:
        return "checkout"


# --- names


def _named(ref: hub.Ref, wish: Wish) -> Model:
    entry = catalogue.find(ref.repo) or catalogue.by_id(ref.repo)
    if ref.quant:
        wish = replace(wish, quant=convert.quant_name(ref.quant))
    wish = replace(wish, revision=ref.revision or wish.revision)
    embedded = _embedded(entry, wish) if entry and ref.hub is None else None
    if embedded:
        return embedded
    raise NetworkError(f"{ref.repo}: the hubs are not wired yet")


def _embedded(entry: catalogue.Entry, wish: Wish) -> Model | None:
    """The model inside an installed package, unless another quant or revision is asked for."""
    inside = entry.embedded
    if not inside or wish.revision or wish.quant not in (None, inside.quant):
        return None
    path = inside.path()
    if not path:
        return None
    return _model(
        path, entry, entry.modelscope, f"{inside.quant} from the package {inside.package}"
    )


def _model(path: Path, entry: catalogue.Entry | None, repo: str, source: str) -> Model:
    suffix = repo.rpartition("/")[2]
    if not entry:
        return Model(path, suffix, repo, source=source)
    return Model(path, suffix, repo, entry.names, dict(entry.sampling), entry.context, source)


def _default(wish: Wish) -> Model:
    spare = catalogue.load()[catalogue.EMBEDDED_DEFAULT]
    found = _embedded(spare, wish)
    if found:
        wish.say(f"no hub answers: using the embedded {found.id}")
        return found
    raise NetworkError("no hub answers", hint="give the path of a .gguf file or a folder")


def _did_you_mean(text: str) -> str:
    close = catalogue.similar(text)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return (
        "MODEL is a .gguf file, a checkpoint folder, a hub id like Qwen/Qwen3-0.6B or a known name"
    )
