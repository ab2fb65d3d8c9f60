"""Files of a repository as they are: which ones, how large, and here; converts nothing."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import convert
from portable import hub
from portable.errors import UsageError
from portable.obtain import local, remote
from portable.obtain.model import Found, Wish


@dataclass(frozen=True)
class Wanted:
    """Names of files and patterns on their whole paths; `local_dir` is a folder of the user's."""

    files: Sequence[str] = ()
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    local_dir: Path | None = None

    @property
    def is_model(self) -> bool:
        """Nothing is chosen: the model is meant, ready to run."""
        return not (self.files or self.include or self.exclude or self.local_dir)


@dataclass(frozen=True)
class Selection:
    """Files of one repository, not fetched yet; `source` knows where they will lie."""

    found: Found
    listing: hub.Listing
    source: hub.Hub
    files: Sequence[hub.RemoteFile]

    @property
    def is_checkpoint(self) -> bool:
        """Safetensors weights, that would be converted to run."""
        return any(file.path.endswith(".safetensors") for file in self.files)

    def missing(self, file: hub.RemoteFile) -> int:
        """Bytes that have still to come."""
        return self.source.missing(self.listing, file)

    def facts(self) -> dict[str, Any]:
        """For JSON: sizes in bytes."""
        there, free = self.source.room(self.listing)
        files = [
            {"file": f.path, "size": f.size, "missing": self.missing(f), "sha256": f.sha256}
            for f in self.files
        ]
        return {
            "repo": self.listing.repo,
            "hub": self.source.title,
            "commit": self.listing.commit,
            "files": files,
            "missing": sum(map(self.missing, self.files)),
            "folder": str(there),
            "free": free,
        }

    def fetch(self, wish: Wish) -> list[Path]:
        """Raises DiskError, NetworkError and UsageError as a download does."""
        wish.say(f"downloading {self.found.target.repo} from {self.found.where}")
        found = Found(self.found.target, self.source, self.listing)
        remote.mix(found, self.files, wish)
        folder = self.source.fetch(self.listing, self.files, wish.report).folder
        return [folder / file.path for file in self.files]


def at_hand(model: str, wish: Wish) -> Path | None:
    """Its GGUF if it is on this disk, from wherever it came."""
    path = local.path_of(model)
    if path:
        return path if path.is_file() else None
    found = remote.at_hand(remote.ref(model), wish)
    return found.path if found else None


def select(model: str, wanted: Wanted, wish: Wish) -> Selection:
    """Find the repository on a hub and choose of its files.

    Raises UsageError for what is on this disk already and for a file that is not there.
    """
    if local.path_of(model):
        raise UsageError(f"{model} is on this disk already", hint="pull takes a hub id or a name")
    if wanted.local_dir and wanted.local_dir.exists() and not wanted.local_dir.is_dir():
        raise UsageError(f"--local-dir {wanted.local_dir} is not a folder")
    targets, wish = remote.targets_of(remote.ref(model), wish)
    found = remote.find(targets, wish)
    listing = found.listing
    if not listing:
        raise found.source.offline(found.target.repo)
    source = hub.connect(found.target.hub, wanted.local_dir) if wanted.local_dir else found.source
    source.force = wish.force
    files = _model_files(listing, wish) if wanted.is_model else _chosen(listing, wanted)
    return Selection(found, listing, source, files)


def _model_files(listing: hub.Listing, wish: Wish) -> list[hub.RemoteFile]:
    if remote.is_gguf(listing, wish.quant):
        return hub.choose_gguf(listing, wish.quant, convert.DEFAULT_QUANT)
    return listing.select(convert.wanted_files())


def _chosen(listing: hub.Listing, wanted: Wanted) -> list[hub.RemoteFile]:
    paths = [file.path for file in listing.files]
    for name in wanted.files:
        if name not in paths:
            close = difflib.get_close_matches(name, paths, 3, cutoff=0.4) or paths[:8]
            raise UsageError(
                f"{listing.repo} has no file {name}", hint=f"it has {', '.join(close)}"
            )
    found = [
        file
        for file in listing.files
        if (not wanted.files or file.path in wanted.files)
        and (not wanted.include or _matches(file.path, wanted.include))
        and not _matches(file.path, wanted.exclude)
    ]
    if not found:
        raise UsageError(
            f"no file of {listing.repo} is left to fetch", hint=f"it has {', '.join(paths[:8])}"
        )
    return found


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """As the hubs' own tools read them: `*` goes over slashes, `folder/` is all that it holds."""
    return any(fnmatch.fnmatchcase(path, p + "*" if p.endswith("/") else p) for p in patterns)
