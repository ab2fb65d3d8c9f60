"""Turns what the user calls a model into one GGUF file on this disk; knows no engine, no terminal.

    file.gguf                used where it lies
    folder                   converted once into the store (or its only .gguf is used)
    catalogue name, hub id   from the store, else downloaded, and converted unless it is a GGUF
    nothing                  the default model when a hub answers, else the embedded one

A model that the user named is never replaced by another.
"""

from __future__ import annotations

import hashlib
import re
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
class Checkpoint:
    """A folder to convert; `name` is the model's, for the folder may be called by a commit."""

    folder: Path
    name: str
    entry: catalogue.Entry | None = None
    full_id: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Target:
    """One repository of one hub, with what the catalogue knows of it."""

    hub: str
    repo: str
    entry: catalogue.Entry | None = None

    @property
    def suffix(self) -> str:
        return self.repo.rpartition("/")[2]

    @property
    def quant(self) -> str:
        return self.entry.quant if self.entry else DEFAULT_QUANT


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
    return _named(_ref(model), wish)


def _looks_local(text: str) -> bool:
    return text.lower().endswith((".gguf", ".partial")) or text.startswith(("/", "./", "../", "~"))


# --- files and folders


def _gguf_file(path: Path) -> Path:
    """`path` if it is a regular, complete file; what is inside is judged by who loads it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}", hint=_help(path.stem)) from None
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


def fetch_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    say: Say,
    progress: Report = silent,
) -> Checkpoint:
    """The checkpoint folder that `model` names, downloaded if need be, for a conversion elsewhere.

    Raises what `obtain` raises, and UsageError for what is no checkpoint but a GGUF already.
    """
    offline = offline or hub.offline_by_environment()
    path = Path(model).expanduser()
    if path.is_dir():
        name = path.resolve().name
        return Checkpoint(path, name, catalogue.by_id(name))
    if _looks_local(model) or path.exists():
        _gguf_file(path)
        raise UsageError(f"{path} is a GGUF already", hint=f"run it: portable chat {path}")
    target, wish = _target(_ref(model), Wish(None, revision, offline, say, progress))
    snapshot = _checkpoint(target, wish)
    return Checkpoint(snapshot.folder, target.suffix, target.entry, target.repo, snapshot.commit)


def _ref(model: str) -> hub.Ref:
    """A known name may hold a colon of its own, like `qwen3:4b`."""
    return hub.Ref(None, model) if catalogue.find(model) else hub.parse(model)


def _target(ref: hub.Ref, wish: Wish) -> tuple[Target, Wish]:
    """Which repository of which hub is meant; what the name says wins over the flags."""
    key = ref.hub or hub.DEFAULT_HUB
    known = catalogue.find(ref.repo)
    if not known and not hub.is_id(ref.repo):
        raise UsageError(f"no file, folder or known model {ref.repo!r}", hint=_help(ref.repo))
    quant = convert.quant_name(ref.quant) if ref.quant else wish.quant
    wish = replace(wish, quant=quant, revision=ref.revision or wish.revision)
    if known:
        return _known(key, known), wish
    return Target(key, ref.repo, catalogue.by_id(ref.repo)), wish


def _known(key: str, entry: catalogue.Entry) -> Target:
    return Target(key, entry.modelscope if key == "ms" else entry.huggingface, entry)


def _named(ref: hub.Ref, wish: Wish) -> Model:
    target, wish = _target(ref, wish)
    if ref.hub is None and not hub.is_id(ref.repo) and target.entry:
        found = _here(target, wish) or _embedded(target.entry, wish)
    else:
        found = _here(target, wish)
    return found or _from_hub(target, wish)


def _here(target: Target, wish: Wish) -> Model | None:
    """From the store. No quant asked for: the default one, or the GGUF that the hub had."""
    records = store.of(target.hub, target.repo, wish.revision)
    wanted = wish.quant or target.quant
    ready = [r for r in records if r.converter is None and not wish.quant]
    found = [r for r in records if r.quant == wanted] or ready
    return _model(found[0], target) if found else None


def _from_hub(target: Target, wish: Wish) -> Model:
    """Downloaded, and converted unless the hub has a GGUF."""
    source = hub.connect(target.hub)
    listing = None if wish.offline else _listing(source, target, wish)
    if listing and _is_gguf(listing, wish.quant):
        file = hub.choose_gguf(listing, wish.quant)
        folder = source.fetch(listing, [file], wish.report).folder
        record = _record(target, wish, _quant_of(file.path), listing.commit)
        record = replace(record, file=str(folder / file.path))
        store.save(record)
    else:
        snapshot = _checkpoint(target, wish, listing)
        record = _record(target, wish, wish.quant or target.quant, snapshot.commit)
        record = _convert(snapshot.folder, record, target.suffix, wish)
    return _model(record, target)


def _listing(source: hub.Hub, target: Target, wish: Wish) -> hub.Listing:
    try:
        return source.listing(target.repo, wish.revision)
    except UsageError as error:
        close = catalogue.similar(target.repo)
        if close:
            error.hint = f"did you mean {' or '.join(close)}? {error.hint}"
        raise


def _is_gguf(listing: hub.Listing, quant: str | None) -> bool:
    """A repository of GGUFs; one with both kinds is converted, unless it has the quant ready."""
    if not listing.ggufs:
        return False
    if not any(f.path.endswith(".safetensors") for f in listing.files):
        return True
    return quant is not None and hub.has_gguf(listing, quant)


def _checkpoint(target: Target, wish: Wish, listing: hub.Listing | None = None) -> hub.Snapshot:
    """The files that a conversion reads; config.json is judged before any weight is fetched."""
    source = hub.connect(target.hub)
    if wish.offline:
        folder = source.cached(target.repo, wish.revision)
        if not folder or not (folder / "config.json").is_file():
            raise source.offline(target.repo)
        return hub.Snapshot(folder, None)
    listing = listing or _listing(source, target, wish)
    if not any(f.path == "config.json" for f in listing.files):
        what = "GGUF files: run it as it is" if listing.ggufs else "no config.json"
        raise UsageError(f"{target.repo} on {source.title} is no checkpoint, it has {what}")
    wish.say(f"downloading {target.repo} from {source.title}")
    patterns = convert.wanted_files()
    return source.snapshot(listing, patterns, check=convert.check_config, report=wish.report)


def _record(target: Target, wish: Wish, quant: str, commit: str | None) -> store.Record:
    licence = target.entry.licence if target.entry else None
    return store.Record(target.hub, target.repo, quant, "", wish.revision, commit, licence=licence)


def _quant_of(file_name: str) -> str:
    found = re.findall(r"(?<![A-Za-z0-9])(I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|F16|F32)", file_name, re.I)
    return found[-1].upper() if found else "GGUF"


def _model(record: store.Record, target: Target) -> Model:
    text = f"{record.quant} of {target.repo} from {hub.TITLES[target.hub]}"
    return _known_model(record.path, target.entry, target.repo, text)


def _known_model(path: Path, entry: catalogue.Entry | None, repo: str, source: str) -> Model:
    suffix = repo.rpartition("/")[2]
    if not entry:
        return Model(path, suffix, repo, source=source)
    return Model(path, suffix, repo, entry.names, dict(entry.sampling), entry.context, source)


def _embedded(entry: catalogue.Entry, wish: Wish) -> Model | None:
    """The model inside an installed package, unless another quant or revision is asked for."""
    inside = entry.embedded
    if not inside or wish.revision or wish.quant not in (None, inside.quant):
        return None
    path = inside.path()
    text = f"{inside.quant} from the Python package {inside.package}"
    return _known_model(path, entry, entry.modelscope, text) if path else None


# --- no name


def _default(wish: Wish) -> Model:
    """The default model from the store or a hub, else the embedded one; `say` tells why."""
    known = catalogue.load()
    entry, spare = known[catalogue.DEFAULT], _embedded(known[catalogue.EMBEDDED_DEFAULT], wish)
    targets = [_known(key, entry) for key in ("ms", "hf")]
    for target in targets:
        if found := _here(target, wish):
            wish.say(f"no model named: using {found.id}, which is on this disk")
            return found
    why = "offline" if wish.offline else "no hub answers"
    for target in [] if wish.offline else targets:
        source = hub.connect(target.hub)
        if source.answers():
            wish.say(f"no model named: using {target.suffix} from {source.title}")
            try:
                return _from_hub(target, wish)
            except NetworkError as error:
                if not spare:
                    raise
                why = error.message
    if spare:
        wish.say(f"{why}: using the embedded {spare.id}")
        return spare
    raise NetworkError(
        f"{why}, and no model is on this disk",
        hint="name a .gguf file or a folder, or install the embedded model: portable-llm[demo]",
    )


def _help(text: str) -> str:
    close = catalogue.similar(text)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return (
        "MODEL is a .gguf file, a checkpoint folder, a hub id like Qwen/Qwen3-0.6B or a known name"
    )
