"""What both hubs have in common: list, choose, fetch and check; imports no client.

A file is checked against the hub's own checksum before it gets its name. When it is wrong only
that file is thrown away, and fetched once more.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from portable.errors import DiskError, NetworkError, UsageError
from portable.hub.names import Listing, RemoteFile, is_id, is_revision, unsafe_name
from portable.hub.probe import Probe
from portable.hub.site import Damaged, Site
from portable.progress import Report, silent, size

BLOCK = 1 << 18  # bytes that are read from a connection at a time
Tick = Callable[[int], None]


class Snapshot(NamedTuple):
    folder: Path
    commit: str | None


class Answer(NamedTuple):
    """What a hub answers to a request for bytes: 206 and their range, or 200 and all of them."""

    status: int
    content_range: str
    blocks: Iterator[bytes]


def offline_by_environment() -> bool:
    """`PORTABLE_OFFLINE` or `HF_HUB_OFFLINE` set to anything but 0, no or false."""
    values = (os.environ.get(name, "") for name in ("PORTABLE_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() not in ("", "0", "no", "false", "off") for value in values)


class Hub(Site):
    """One hub. The methods at the end are all that its client has to answer."""

    def __init__(self, local_dir: Path | None = None) -> None:
        """Files go to the client's cache, or as plain files into `local_dir`.

        `force` fetches them whatever room the disk has.
        """
        self.local_dir = local_dir
        self.force = False

    @functools.cached_property
    def probe(self) -> Probe:
        """Asked once: hubs that are probed before one is waited for are probed together."""
        return Probe(self.endpoint)

    def listing(self, repo: str, revision: str | None = None) -> Listing:
        """What the repository holds.

        Raises UsageError for a repository or revision that is not there or not for you, and
        NetworkError when the hub does not answer.
        """
        _valid(repo, revision)
        if offline_by_environment():
            raise self.offline(repo)
        if not self.probe.answered:
            raise NetworkError(f"{self.title} ({self.host}) does not answer", hint=self.way_out)
        with self.explained(repo, revision):
            listing = self._list(repo, revision)
        if not all(isinstance(f.path, str) and f.size >= 0 for f in listing.files):
            raise self.nonsense("a listing that makes no sense")
        return listing

    def cached(self, repo: str, revision: str | None = None) -> Path | None:
        """The folder of an earlier download; opens no socket."""
        _valid(repo, revision)
        return self._cached(repo, revision)

    def snapshot(
        self,
        listing: Listing,
        patterns: Sequence[str],
        *,
        check: Callable[[dict[str, Any], Path], object] | None = None,
        report: Report = silent,
    ) -> Snapshot:
        """The files that `patterns` name.

        `check` sees config.json, and the folder with the model card, before any other is fetched.
        """
        chosen = listing.select(patterns)
        first = [f for f in chosen if f.path in ("config.json", "README.md")]
        if check and any(f.path == "config.json" for f in first):
            folder = self.fetch(listing, first).folder
            check(_json(folder / "config.json", listing.repo), folder)
        return self.fetch(listing, chosen, report)

    def fetch(
        self, listing: Listing, files: Sequence[RemoteFile], report: Report = silent
    ) -> Snapshot:
        """These files, whole and checked; what is there is not fetched."""
        self.check_names(listing, files)
        total = sum(file.size for file in files)
        self.check_space(listing, files)
        done, folder = 0, self.folder(listing)
        for file in files:

            def tick(count: int, base: int = done, name: str = file.path) -> None:
                report("downloading", base + count, total, name)

            with self.explained(listing.repo, listing.revision):
                self._fetch_twice(listing, file, tick)
            done += file.size
            tick(file.size)
        return Snapshot(folder, listing.commit)

    def _fetch_twice(self, listing: Listing, file: RemoteFile, tick: Tick) -> None:
        try:
            self._fetch(listing, file, tick)
        except Damaged:
            try:
                self._fetch(listing, file, tick)
            except Damaged as error:
                raise NetworkError(
                    f"{file.path} of {listing.repo} arrives damaged from {self.host}: {error}",
                    hint="the damaged file is deleted; try again later, or the other hub",
                ) from None

    def check_names(self, listing: Listing, files: Sequence[RemoteFile]) -> None:
        """No file may leave its folder, neither by its name nor through a link that lies there."""
        folder = self.folder(listing)
        for file in files:
            if unsafe_name(file.path):
                raise NetworkError(f"{self.title} lists a dangerous file name: {file.path!r}")
            parent = (folder / file.path).parent
            if not parent.resolve().is_relative_to(folder.resolve()):
                raise DiskError(f"{parent} leads out of {folder}", hint="remove that link")

    def missing(self, listing: Listing, file: RemoteFile) -> int:
        """Bytes of this file that have still to come."""
        if (self.folder(listing) / file.path).exists():
            return 0
        partial = self.partial(listing, file)
        return max(0, file.size - (partial.stat().st_size if partial.exists() else 0))

    def room(self, listing: Listing) -> tuple[Path, int]:
        """The nearest folder that is there already, and the bytes free on its disk."""
        folder = self.folder(listing)
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        return there, shutil.disk_usage(there).free

    def check_space(self, listing: Listing, files: Sequence[RemoteFile]) -> None:
        """Raises DiskError when what has still to come would not fit."""
        missing = sum(self.missing(listing, file) for file in files)
        there, free = self.room(listing)
        if missing > free and not self.force:
            raise DiskError(
                f"{listing.repo} needs {size(missing)} in {there}, and {size(free)} are free",
                hint="free some space, or move the hub's cache: HF_HOME, MODELSCOPE_CACHE; "
                "pull --force fetches all the same",
            )

    @abstractmethod
    def folder(self, listing: Listing) -> Path:
        """Where the files of this listing lie, made or not."""

    @abstractmethod
    def place(self, listing: Listing, file: RemoteFile) -> Path:
        """Where the bytes of the whole file lie."""

    @abstractmethod
    def partial(self, listing: Listing, file: RemoteFile) -> Path:
        """Where they lie while they come."""

    @abstractmethod
    def partials(self) -> list[Path]:
        """All partial files that this program left in the client's cache."""

    @abstractmethod
    def promised(self, listing: Listing, file: RemoteFile) -> str | None:
        """The sha256 that the partial file will have when it is whole, if that is known."""

    @abstractmethod
    def _cached(self, repo: str, revision: str | None) -> Path | None: ...

    @abstractmethod
    def _list(self, repo: str, revision: str | None) -> Listing: ...

    @abstractmethod
    def request(
        self, listing: Listing, file: RemoteFile, start: int, stop: int
    ) -> AbstractContextManager[Answer]:
        """Asks for the bytes of a file from `start` to before `stop`, which are not stored."""

    @abstractmethod
    def _fetch(self, listing: Listing, file: RemoteFile, tick: Tick) -> None:
        """One file into `folder`, or Damaged and no trace of it; `tick` gets its bytes so far."""


def checksum(path: Path, file: RemoteFile) -> tuple[str, str]:
    """(expected, found) by the best that the hub tells: sha256, git's sha1, else the size."""
    if file.sha256:
        digest = hashlib.sha256()
    elif file.oid:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return f"{file.size} bytes", f"{path.stat().st_size} bytes"
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    kind = "sha256" if file.sha256 else "git blob"
    return f"{kind} {file.sha256 or file.oid}", f"{kind} {digest.hexdigest()}"


def _valid(repo: str, revision: str | None) -> None:
    if not is_id(repo):
        raise UsageError(f"{repo!r} is not a model id", hint="an id looks like org/name")
    if revision is not None and not is_revision(revision):
        raise UsageError(f"{revision!r} is not a revision", hint="give a branch, tag or commit")


def _json(path: Path, repo: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise NetworkError(f"config.json of {repo} is not JSON: {error}") from error
    return data if isinstance(data, dict) else {}
