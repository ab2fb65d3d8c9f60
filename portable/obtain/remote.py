"""Names as models: catalogue and hub ids, the store before the hubs, and the default model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import convert
from portable import catalogue, hub, store
from portable.errors import CheckpointError, NetworkError, UsageError
from portable.obtain.local import convert_into_store
from portable.obtain.model import Model, Target, Wish


def ref(model: str) -> hub.Ref:
    """A known name may hold a colon of its own, like `qwen3:4b`."""
    return hub.Ref(None, model) if catalogue.find(model) else hub.parse(model)


def target_of(ref: hub.Ref, wish: Wish) -> tuple[Target, Wish]:
    """Which repository of which hub is meant; what the name says wins over the flags."""
    key = ref.hub or hub.DEFAULT_HUB
    known = catalogue.find(ref.repo)
    if not known and not hub.is_id(ref.repo):
        raise UsageError(
            f"no file, folder or known model {ref.repo!r}", hint=catalogue.hint(ref.repo)
        )
    quant = convert.quant_name(ref.quant) if ref.quant else wish.quant
    wish = replace(wish, quant=quant, revision=ref.revision or wish.revision)
    if known:
        return _known(key, known), wish
    return Target(key, ref.repo, catalogue.by_id(ref.repo)), wish


def _known(key: str, entry: catalogue.Entry) -> Target:
    return Target(key, entry.modelscope if key == "ms" else entry.huggingface, entry)


def named(ref: hub.Ref, wish: Wish) -> Model:
    target, wish = target_of(ref, wish)
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
        file = hub.choose_gguf(listing, wish.quant, convert.DEFAULT_QUANT)
        wish.say(f"downloading {file.path} of {target.repo} from {source.title}")
        folder = source.fetch(listing, [file], wish.report).folder
        record = _record(target, wish, _quant_of(file.path), listing.commit)
        record = replace(record, file=str(folder / file.path))
        store.save(record)
    else:
        snapshot = checkpoint(target, wish, listing)
        record = _record(target, wish, wish.quant or target.quant, snapshot.commit)
        record = convert_into_store(snapshot.folder, record, target.suffix, wish)
    return _model(record, target)


def _listing(source: hub.Hub, target: Target, wish: Wish) -> hub.Listing:
    try:
        return source.listing(target.repo, wish.revision)
    except UsageError as error:
        close = [] if target.entry else catalogue.similar(target.repo)
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


def checkpoint(target: Target, wish: Wish, listing: hub.Listing | None = None) -> hub.Snapshot:
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
    if not any(f.path.endswith(".safetensors") for f in listing.files):
        pickles = [f.path for f in listing.files if f.path.endswith((".bin", ".pth", ".pt"))]
        raise CheckpointError(
            f"{target.repo} on {source.title} has no safetensors weights"
            + (f", only pickle files like {pickles[0]}" if pickles else ""),
            hint="choose a repository with safetensors files: pickle files can run any code",
        )
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
    return Model(path, suffix, repo, entry.names, dict(entry.sampling), source)


def _embedded(entry: catalogue.Entry, wish: Wish) -> Model | None:
    """The model inside an installed package, unless another quant or revision is asked for."""
    inside = entry.embedded
    if not inside or wish.revision or wish.quant not in (None, inside.quant):
        return None
    path = inside.path()
    text = f"{inside.quant} from the Python package {inside.package}"
    return _known_model(path, entry, entry.modelscope, text) if path else None


def default(wish: Wish) -> Model:
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
