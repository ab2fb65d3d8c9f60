"""Names as models: catalogue and hub ids, the store before the hubs, and the default model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import convert
from portable import catalogue, elsewhere, gguf, hub, store
from portable.errors import CheckpointError, NetworkError, NotOnHub, UsageError
from portable.obtain import streaming
from portable.obtain.choice import choose
from portable.obtain.local import convert_into_store
from portable.obtain.model import Checkpoint, Found, Model, Target, Wish

Settle = Callable[[Found, Wish], Wish]


def ref(model: str) -> hub.Ref:
    """A known name may hold a colon of its own, like `qwen3:4b`."""
    return hub.Ref(None, model) if catalogue.find(model) else hub.parse(model)


def targets_of(ref: hub.Ref, wish: Wish) -> tuple[list[Target], Wish]:
    """The repository on each hub that may be meant, the first choice first.

    What the name says wins over the flags.
    """
    known = catalogue.find(ref.repo)
    if not known and not hub.is_id(ref.repo):
        raise UsageError(
            f"no file, folder or known model {ref.repo!r}", hint=catalogue.hint(ref.repo)
        )
    quant = convert.quant_name(ref.quant) if ref.quant else wish.quant
    wish = replace(wish, quant=quant, revision=ref.revision or wish.revision)
    keys = [ref.hub] if ref.hub else list(hub.TITLES)
    if known:
        return [Target(key, known.on(key), known) for key in keys], wish
    return [Target(key, ref.repo, catalogue.by_id(ref.repo)) for key in keys], wish


def named(ref: hub.Ref, wish: Wish, settle: Settle) -> Model:
    """`settle` chooses the quantization of what is not here, where nobody named one."""
    if found := at_hand(ref, wish):
        return found
    targets, wish = targets_of(ref, wish)
    return _from_hub(find(targets, wish), wish, settle)


def at_hand(ref: hub.Ref, wish: Wish) -> Model | None:
    """From the store, another program or an installed package: no hub is asked."""
    targets, wish = targets_of(ref, wish)
    found = _first(_here(target, wish) for target in targets)
    found = found or _first(_elsewhere(target, wish) for target in targets)
    if not found and ref.hub is None and not hub.is_id(ref.repo) and targets[0].entry:
        found = _embedded(targets[0].entry, wish)
    return found


def _first(models: Iterable[Model | None]) -> Model | None:
    return next((model for model in models if model), None)


def find(targets: Sequence[Target], wish: Wish) -> Found:
    """The model on a hub, or offline in a hub's cache."""
    if wish.offline:
        return _cached(targets, wish)
    try:
        found = choose(targets, wish)
        found.source.force = wish.force
        return found
    except NotOnHub as error:
        close = [] if targets[0].entry else catalogue.similar(targets[0].repo)
        if close:
            error.hint = f"did you mean {' or '.join(close)}? {error.hint}"
        raise


def _cached(targets: Sequence[Target], wish: Wish) -> Found:
    sources = [hub.connect(target.hub) for target in targets]
    for target, source in zip(targets, sources):
        folder = source.cached(target.repo, wish.revision)
        if folder and (folder / "config.json").is_file():
            return Found(target, source, folder=folder)
    raise sources[0].offline(targets[0].repo)


def _here(target: Target, wish: Wish) -> Model | None:
    """From the store. No quant asked for: the default one, or the GGUF that the hub had."""
    records = store.of(target.hub, target.repo, wish.revision)
    wanted = wish.quant or target.quant
    ready = [r for r in records if r.converter is None and not wish.quant]
    found = [r for r in records if r.quant == wanted] or ready
    return _model(found[0], target) if found else None


def _elsewhere(target: Target, wish: Wish) -> Model | None:
    """In place, from another program that has this very file; a revision nobody can tell."""
    quant = wish.quant or target.quant
    for held in [] if wish.revision else elsewhere.of(target.hub, target.repo):
        if gguf.has_quant(held.file, quant):
            wish.say(f"using {held.path}, which {held.app} has: nothing is copied")
            return _known_model(held.path, target.entry, target.repo, f"{quant} from {held.app}")
        wish.say(f"{held.app} has another file of {target.repo}: portable chat {held.path}")
    return None


def _from_hub(found: Found, wish: Wish, settle: Settle) -> Model:
    """Made here, or by another process that was first."""
    target, asked = found.target, wish
    wish = settle(found, wish)
    if wish != asked and (here := _here(target, wish)):
        return here
    waiting = wish.waiting(target.suffix)
    with store.turn(target.hub, target.repo, wish.revision, waiting) as waited:
        return (waited and _here(target, wish)) or _make(found, wish)


def _make(found: Found, wish: Wish) -> Model:
    """Downloaded, and converted unless the hub has a GGUF."""
    target, source, listing = found.target, found.source, found.listing
    if listing and is_gguf(listing, wish.quant):
        files = hub.choose_gguf(listing, wish.quant, convert.DEFAULT_QUANT)
        first = files[0]
        count = f" in {len(files)} files" if files[1:] else ""
        wish.say(f"downloading {first.path}{count} of {target.repo} from {found.where}")
        own = not any(source.place(listing, file).exists() for file in files)
        mix(found, files, wish)
        folder = source.fetch(listing, files, wish.report).folder
        record = _record(target, wish, gguf.quant_of(first.path) or "GGUF", listing.commit)
        sha256 = None if files[1:] else first.sha256
        record = replace(record, file=str(folder / first.path), sha256=sha256, own=own)
        store.save(record)
    else:
        origin = checkpoint(found, wish)
        record = _record(target, wish, wish.quant or target.quant, origin.commit)
        record = convert_into_store(origin, record, wish)
    return _model(record, target)


def is_gguf(listing: hub.Listing, quant: str | None) -> bool:
    """A repository of GGUFs; one with both kinds is converted, unless it has the quant ready."""
    if not listing.ggufs:
        return False
    if not any(f.path.endswith(".safetensors") for f in listing.files):
        return True
    return quant is not None and hub.has_gguf(listing, quant)


def checkpoint(found: Found, wish: Wish) -> Checkpoint:
    """The files that a conversion reads, but weights that are to stream.

    config.json is judged before any weight is fetched.
    """
    target, source, listing = found.target, found.source, found.listing
    repo = target.repo
    if found.folder:
        return Checkpoint(found.folder, target.suffix, target.entry, repo)
    assert listing, "found on a hub"
    if not any(f.path == "config.json" for f in listing.files):
        what = "GGUF files: run it as it is" if listing.ggufs else "no config.json"
        if any(f.path == "adapter_config.json" for f in listing.files):
            what = "a LoRA adapter: download it, and convert its folder"
        raise UsageError(f"{repo} on {source.title} is no checkpoint, it has {what}")
    if not any(f.path.endswith(".safetensors") for f in listing.files):
        pickles = [f.path for f in listing.files if f.path.endswith((".bin", ".pth", ".pt"))]
        raise CheckpointError(
            f"{repo} on {source.title} has no safetensors weights"
            + (f", only pickle files like {pickles[0]}" if pickles else ""),
            hint="choose a repository with safetensors files: pickle files can run any code",
        )
    wish.say(f"{'looking at' if wish.dry_run else 'downloading'} {repo} from {found.where}")
    files = listing.select(convert.wanted_files())
    mix(found, files, wish)
    room = streaming.room(found, listing, files, wish)
    far = streaming.weights(found, listing, files, room, wish)
    snapshot = partial(
        source.snapshot,
        listing,
        check=partial(convert.check_folder, name=repo),
        report=wish.report,
    )
    # Whether they fit an importance matrix, or need one, the shapes of the tensors decide.
    if (
        room.missing
        and not far
        and ((wish.quant or target.quant) in convert.GUIDED or wish.imatrix)
    ):
        folder, _ = snapshot(convert.wanted_files(weights=False))
        streaming.check(folder, found, listing, files, wish)
    folder, commit = snapshot(convert.wanted_files(weights=not far))
    return Checkpoint(folder, target.suffix, target.entry, repo, commit, far, room)


def mix(found: Found, files: Sequence[hub.RemoteFile], wish: Wish) -> None:
    """Use what is in a cache already, from this hub or the other, where the files are the same."""
    listing = found.listing
    assert listing, "found on a hub"
    for key in hub.TITLES:
        if key == found.target.hub and not found.source.local_dir:
            continue  # its own cache is where the files go
        earlier = hub.connect(key)
        taken = hub.take_over(found.source, listing, files, earlier, found.target.on(key))
        if taken.same:
            names = f"{len(taken.same)} files" if taken.same[1:] else taken.same[0]
            wish.say(f"{names}: already here from {earlier.title}, with the same sha256")
        if taken.differ:
            wish.say(
                f"{taken.differ[0]} from {earlier.title} has another sha256 than on "
                f"{found.source.title}: it is not used"
            )


def _record(target: Target, wish: Wish, quant: str, commit: str | None) -> store.Record:
    licence = target.entry.licence if target.entry else None
    return store.Record(target.hub, target.repo, quant, "", wish.revision, commit, licence=licence)


def _model(record: store.Record, target: Target) -> Model:
    text = f"{record.quant} of {target.repo} from {hub.TITLES[target.hub]}"
    return _known_model(record.path, target.entry, target.repo, text)


def _known_model(path: Path, entry: catalogue.Entry | None, repo: str, source: str) -> Model:
    suffix = repo.rpartition("/")[2]
    if not entry:
        return Model(path, suffix, repo, source=source)
    return Model(path, suffix, repo, entry.names, dict(entry.sampling), source)


def _embedded(entry: catalogue.Entry, wish: Wish) -> Model | None:
    """The model inside an installed package, unless another quant or revision is asked for."""
    inside = entry.embedded
    if not inside or wish.revision or wish.quant not in (None, inside.quant):
        return None
    path = inside.path()
    text = f"{inside.quant} from the Python package {inside.package}"
    return _known_model(path, entry, entry.modelscope, text) if path else None


def default(wish: Wish, settle: Settle) -> Model:
    """The default model from the store or a hub, else the embedded one; `say` tells why."""
    known = catalogue.load()
    entry, spare = known[catalogue.DEFAULT], _embedded(known[catalogue.EMBEDDED_DEFAULT], wish)
    targets = [Target(key, entry.on(key), entry) for key in hub.TITLES]
    if here := _first(_here(target, wish) for target in targets):
        wish.say(f"no model named: using {here.id}, which is on this disk")
        return here
    why = "offline"
    if not wish.offline:
        try:
            found = choose(targets, wish)
            wish.say(f"no model named: using {found.target.suffix} from {found.source.title}")
            return _from_hub(found, wish, settle)
        except NetworkError as error:
            if not spare:
                error.hint += f"; {_EMBEDDED}"
                raise
            why = error.message
    if spare:
        wish.say(f"{why}: using the embedded {spare.id}")
        return spare
    raise NetworkError(
        f"{why}, and no model is on this disk", hint=f"name a .gguf file or a folder; {_EMBEDDED}"
    )


_EMBEDDED = 'pip install "portable-llm[demo]" brings a small model that needs no hub'
