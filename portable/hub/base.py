"""What both hubs have in common: list, choose, fetch, check, explain; imports no client.

A file is checked against the hub's own checksum before it gets its name. When it is wrong only
that file is thrown away, and fetched once more.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from portable.errors import DiskError, NetworkError, NotOnHub, PortableError, UsageError
from portable.hub.names import Listing, RemoteFile, is_id, is_revision, unsafe_name
from portable.hub.probe import Probe
from portable.progress import Report, silent

BLOCK = 1 << 18  # bytes that are read from a connection at a time
# A token goes to these hosts and to the one in PORTABLE_TOKEN_HOST: a mirror never sees it.
TOKEN_HOSTS = ("huggingface.co", "modelscope.cn", "modelscope.ai")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
# What a client does when the answer is JSON of another shape, or no JSON at all.
_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
_CLIENTS = {"httpx2", "httpcore2", "requests", "urllib3", "modelscope_hub", "huggingface_hub"}

Tick = Callable[[int], None]


class Snapshot(NamedTuple):
    folder: Path
    commit: str | None


class Answer(NamedTuple):
    """What a hub answers to a request for bytes: 206 and their range, or 200 and all of them."""

    status: int
    content_range: str
    blocks: Iterator[bytes]


class Damaged(Exception):
    """A file arrived whole, and is not the one that the hub lists; its bytes are gone already."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")


def offline_by_environment() -> bool:
    """`PORTABLE_OFFLINE` or `HF_HUB_OFFLINE` set to anything but 0, no or false."""
    values = (os.environ.get(name, "") for name in ("PORTABLE_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() not in ("", "0", "no", "false", "off") for value in values)


class Hub(ABC):
    """One hub. The methods at the end are all that its client has to answer."""

    key: str
    title: str
    endpoint_variable: str
    token_variable: str

    def __init__(self, local_dir: Path | None = None) -> None:
        """Files go to the client's cache, or as plain files into `local_dir`."""
        self.local_dir = local_dir

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
            raise NetworkError(f"{self.title} ({self.host}) does not answer", hint=self._way_out)
        with self.explained(repo, revision):
            listing = self._list(repo, revision)
        if not all(isinstance(f.path, str) and f.size >= 0 for f in listing.files):
            raise self._nonsense("a listing that makes no sense")
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
        check: Callable[[dict[str, Any]], object] | None = None,
        report: Report = silent,
    ) -> Snapshot:
        """The files that `patterns` name. `check` sees config.json before any other is fetched."""
        chosen = listing.select(patterns)
        config = next((f for f in chosen if f.path == "config.json"), None)
        if check and config:
            folder = self.fetch(listing, [config]).folder
            check(_json(folder / "config.json", listing.repo))
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
        if missing > free:
            raise DiskError(
                f"{listing.repo} needs {missing / 1e9:.1f} GB in {there}, "
                f"and {free / 1e9:.1f} GB are free",
                hint="free some space, or move the hub's cache: HF_HOME, MODELSCOPE_CACHE",
            )

    @property
    def host(self) -> str:
        """For messages: an address may carry a password, a host name does not."""
        return urlsplit(self.endpoint).hostname or "?"

    @property
    def may_send_token(self) -> bool:
        host = self.host.lower()
        official = any(host == h or host.endswith("." + h) for h in TOKEN_HOSTS)
        return official or host == os.environ.get("PORTABLE_TOKEN_HOST", "").lower()

    @property
    def _way_out(self) -> str:
        other = "hf://org/name asks Hugging Face" if self.key == "ms" else "ms:// asks ModelScope"
        return (
            f"check the network and HTTPS_PROXY, or name a mirror in {self.endpoint_variable}; "
            f"{other}; --offline uses what is on this disk"
        )

    def offline(self, repo: str) -> NetworkError:
        return NetworkError(
            f"{repo} is not on this disk, and offline nothing is downloaded",
            hint="go online once, without --offline, PORTABLE_OFFLINE and HF_HUB_OFFLINE",
        )

    @contextmanager
    def explained(self, repo: str, revision: str | None) -> Iterator[None]:
        """The client's errors become ours; anything that is a bug stays as it is."""
        try:
            yield
        except (PortableError, Damaged):
            raise
        except Exception as error:
            known = type(error).__module__.partition(".")[0] in _CLIENTS
            if not known and isinstance(error, _NONSENSE):
                raise self._nonsense("something that is not what a hub says") from error
            if not known and not isinstance(error, OSError):
                raise
            raise self._explain(error, repo, revision) from error

    def _nonsense(self, what: str) -> NetworkError:
        return NetworkError(
            f"{self.title} ({self.host}) answers with {what}",
            hint=f"is there a login page on this network? is {self.endpoint_variable} right?",
        )

    def _explain(self, error: Exception, repo: str, revision: str | None) -> PortableError:
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "HFValidationError" in kinds:
            return UsageError(f"{repo!r} is not a model id", hint="an id looks like org/name")
        if isinstance(error, OSError) and error.errno in _DISK:
            return DiskError(f"cannot store {repo}: {error.strerror}", hint="free some space")
        if "GatedRepoError" in kinds or status == 403:
            return self._refused(repo)
        # Hugging Face says 401 for what does not exist, too.
        if status == 404 or kinds & {"RepositoryNotFoundError", "NotExistError"}:
            return self._not_found(repo, revision)
        if status == 401:
            return self._refused(repo)
        what = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return NetworkError(f"{self.title} ({self.host}): {what}", hint=self._way_out)

    def _not_found(self, repo: str, revision: str | None) -> NotOnHub:
        name = f"{repo} at revision {revision}" if revision else repo
        other = "hf://" if self.key == "ms" else "ms://"
        hint = f"check the spelling; {other}{repo} asks the other hub"
        return NotOnHub(
            f"{self.title} ({self.host}) has no model {name}, or it is private",
            hint=f"{hint}; for a private one set {self.token_variable}",
        )

    def _refused(self, repo: str) -> UsageError:
        page = self._page(repo)
        hint = f"check its name, accept its licence at {page} and set {self.token_variable}"
        if not self.may_send_token:
            hint += f"; a token goes to {self.host} only with PORTABLE_TOKEN_HOST={self.host}"
        return UsageError(
            f"{self.title} ({self.host}) refuses {repo}: it is gated, private or not there",
            hint=hint,
        )

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Where the hub is, from the environment as it is now, without a slash at the end."""

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
    def _fetch(self, listing: Listing, file: RemoteFile, tick: Tick) -> None:
        """One file into `folder`, or Damaged and no trace of it; `tick` gets its bytes so far."""

    @abstractmethod
    def request(
        self, listing: Listing, file: RemoteFile, start: int, stop: int
    ) -> AbstractContextManager[Answer]:
        """Asks for the bytes of a file from `start` to before `stop`, which are not stored."""

    @abstractmethod
    def _page(self, repo: str) -> str:
        """The address of the model for a person."""


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
