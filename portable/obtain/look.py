"""What a model's name can mean, quantization by quantization, from heads alone: fetches no weights.

file.gguf                that file
folder, hub checkpoint   every quantization that it could be converted to
GGUFs of a hub           every file of the repository
"""

from __future__ import annotations

import shutil
from collections.abc import Container, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import convert
from convert.quants import QUANTS
from portable import folders, gguf, hub, store
from portable.engine.offload.shape import shape_of
from portable.errors import ModelFileError, NetworkError, UsageError
from portable.fit.variant import Candidates, Variant
from portable.obtain import heads, local, remote
from portable.obtain.model import Checkpoint, Found, Wish

_FILE_TYPES = {quant.ftype: quant.name for quant in QUANTS.values()}


def look(model: str, wish: Wish) -> Candidates:
    """Raises UsageError, ModelFileError, CheckpointError, UnsupportedModel and NetworkError."""
    wish = replace(wish, dry_run=True, offline=wish.offline or hub.offline_by_environment())
    path = local.path_of(model)
    if path and local.is_folder(path) and (path / "config.json").is_file():
        return _checkpoint(Checkpoint(path, path.resolve().name), wish, set())
    if path:
        found = local.folder(path, wish) if local.is_folder(path) else local.file(path, wish)
        return of_file(found.path, found.source)
    return _named(remote.ref(model), wish)


def _named(ref: hub.Ref, wish: Wish) -> Candidates:
    here = remote.at_hand(ref, replace(wish, say=lambda _: None))
    targets, wish = remote.targets_of(ref, wish)
    if here and (wish.offline or wish.quant):
        return of_file(here.path, here.source)
    try:
        found = remote.find(targets, wish)
    except NetworkError:
        if not here:
            raise
        return of_file(here.path, here.source)
    return of_found(found, wish)


def of_found(found: Found, wish: Wish) -> Candidates:
    """What a hub has under that name. Raises what `look` raises."""
    listing, target = found.listing, found.target
    if listing and remote.is_gguf(listing, wish.quant):
        return _files(found, listing, wish)
    made = {r.quant for r in store.of(target.hub, target.repo, wish.revision) if r.path.is_file()}
    return _checkpoint(remote.checkpoint(found, wish), wish, made, target.quant)


def of_file(path: Path, source: str) -> Candidates:
    """A GGUF of this disk, all its files."""
    shards = gguf.shards(path)
    found = [gguf.read(shard) for shard in shards]
    quant = _quant(found[0], path)
    fronts = tuple(
        (_front(shard, head.start), shard.stat().st_size) for shard, head in zip(shards, found)
    )
    variant = Variant(quant, gguf.size(path), tuple(found), here=True)
    free = shutil.disk_usage(path.absolute().parent).free
    return Candidates(gguf.stem(path), source, quant, (variant,), fronts, path.parent, free)


def _quant(head: gguf.Head, path: Path) -> str:
    said = head.keys.get("portable.quantization") or _FILE_TYPES.get(
        head.keys.get("general.file_type", -1)
    )
    return str(said or gguf.quant_of(path.name) or "GGUF")


def _front(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


# --- what would be converted ---


def _checkpoint(
    source: Checkpoint, wish: Wish, made: set[str], default: str = convert.DEFAULT_QUANT
) -> Candidates:
    """`made` are the quantizations that lie in the store."""
    options = convert.Options(quant=wish.quant or default, name=source.name, imatrix=wish.imatrix)
    found = convert.preview(source.folder, options, remote=source.weights)
    return of_preview(source, found, options.quant, made, wish.quant)


def of_preview(
    source: Checkpoint,
    found: convert.Preview,
    default: str,
    made: Container[str] = (),
    only: str | None = None,
) -> Candidates:
    """What a checkpoint could be converted to. `made` are the quantizations that are here already;
    `only` leaves all others out."""
    first = gguf.parse(BytesIO(found.front), found.size, source.name)
    fetch = source.room.missing if source.room else 0
    folder = next(p for p in (folders.home(), *folders.home().absolute().parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    variants = tuple(
        Variant(
            each.quant,
            each.size,
            (first._replace(infos=each.tensors),),
            fetch=0 if each.quant in made else fetch,
            disk=0 if each.quant in made else _room(each.size, fetch, free),
            here=each.quant in made,
            needs_imatrix=each.needs_imatrix,
        )
        for each in found.sizes
        if only in (None, each.quant)
    )
    name = source.full_id or source.name
    files = ((found.front, found.size),)
    return Candidates(name, f"checkpoint {name}", default, variants, files, folder, free)


def _room(size: int, fetch: int, free: int) -> int:
    """Where the disk cannot hold a checkpoint as well, it is converted as it streams."""
    return size + fetch if size + fetch <= free else size


# --- what lies on a hub ready ---


def _files(found: Found, listing: hub.Listing, wish: Wish) -> Candidates:
    groups = _groups(listing, wish.quant)
    there, free = found.source.room(listing)
    wish.say(f"reading the heads of {len(groups)} models of {listing.repo} from {found.where}")
    each = [[hub.HubFile(found.source, listing, file) for file in files] for files in groups]
    first, variants = _known(each, wish)
    quants = [variant.quant for variant in variants]
    return Candidates(
        listing.repo,
        f"{listing.repo} from {found.where}",
        next((q for q in (wish.quant, found.target.quant) if q in quants), quants[0]),
        tuple(sorted(variants, key=lambda variant: -variant.size)),
        first,
        there,
        free,
    )


def _known(
    every: Sequence[Sequence[hub.HubFile]], wish: Wish
) -> tuple[tuple[tuple[bytes, int], ...], list[Variant]]:
    """What the files of the first one begin with and their sizes, and all variants.

    Says which are left out: those whose tensors are of a type that llama.cpp gave up, for one.
    Raises ModelFileError if all are.
    """
    first, variants = list[tuple[gguf.Head, bytes]](), list[Variant]()
    fronts: tuple[tuple[bytes, int], ...] = ()
    defect = None
    for files in every:
        try:
            whole = first or [heads.whole(file) for file in files]
            found = _heads(files, whole)
            shape_of(found)
        except ModelFileError as error:
            defect = error
            wish.say(f"leaving {files[0].name} out: {error.message}")
            continue
        if not first:
            first, fronts = whole, tuple((b, f.size) for (_, b), f in zip(whole, files))
        variants.append(_variant(files, found, every))
    if defect and not variants:
        raise defect
    return fronts, variants


def _heads(
    files: Sequence[hub.HubFile], first: Sequence[tuple[gguf.Head, bytes]]
) -> tuple[gguf.Head, ...]:
    """`first` are those of the repository's first model, with the bytes they were read from."""
    if len(files) == len(first) == 1:
        return (heads.like(files[0], *first[0]),)
    return tuple(heads.whole(file)[0] for file in files)


def _variant(
    files: Sequence[hub.HubFile],
    found: tuple[gguf.Head, ...],
    every: Sequence[Sequence[hub.HubFile]],
) -> Variant:
    """Called by its quantization, where that tells it apart from the others."""
    missing = sum(file.hub.missing(file.listing, file.file) for file in files)
    quant = gguf.quant_of(files[0].name)
    alone = [gguf.quant_of(other[0].name) for other in every].count(quant) == 1
    name = quant if quant and alone else files[0].name
    size = sum(file.size for file in files)
    return Variant(name, size, found, missing, missing, here=not missing)


def _groups(listing: hub.Listing, quant: str | None) -> list[list[hub.RemoteFile]]:
    """The models of a repository, each as its files in order; half ones are left out."""
    paths = {file.path: file for file in listing.ggufs}
    groups = []
    for path in paths:
        folder, slash, name = path.rpartition("/")
        every = [folder + slash + shard for shard in gguf.shard_names(name)]
        if every[0] == path and all(part in paths for part in every):
            groups.append([paths[part] for part in every])
    wanted = [group for group in groups if not quant or gguf.has_quant(group[0].path, quant)]
    if not groups:
        raise ModelFileError(
            f"{listing.repo} has no whole GGUF file", hint="choose another repository"
        )
    if not wanted:
        names = ", ".join(group[0].path for group in groups[:12])
        raise UsageError(f"{listing.repo} has no {quant} file", hint=f"it has {names}")
    return wanted
