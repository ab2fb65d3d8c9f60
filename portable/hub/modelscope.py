"""ModelScope, through `modelscope_hub`: the light official base of the `modelscope` package.

Its downloader already goes on where it stopped, and checks size and sha256 before the rename.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import modelscope_hub
from modelscope_hub import _download, _legacy_api

from portable.hub.base import BLOCK, Answer, Hub, Tick
from portable.hub.names import Listing, RemoteFile
from portable.hub.site import Damaged

# It draws bars of its own on stderr, and logs there: what matters reaches us as exceptions.
_download.tqdm = functools.partial(_download.tqdm, disable=True)
logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
_legacy_api.DOWNLOAD_TIMEOUT = 30  # seconds without a byte, then it connects again
_download.DOWNLOAD_TOTAL_TIMEOUT = 24 * 3600  # its hour is too short for 15 GB
# A wrong file is asked for again by us, not by it.
_download.DOWNLOAD_HASH_RETRY_TIMES = _download.DOWNLOAD_SIZE_RETRY_TIMES = 1

DEFAULT_REVISION = "master"
NOTE = ".sha256"


class ModelScope(Hub):
    key = "ms"
    title = "ModelScope"
    endpoint_variable = "MODELSCOPE_ENDPOINT"
    token_variable = "MODELSCOPE_API_TOKEN"

    @property
    def endpoint(self) -> str:
        given = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
        return str(modelscope_hub.HubConfig.normalize_endpoint(given))

    @functools.cached_property
    def _config(self) -> Any:
        # An empty token means none; None lets the client find the one of an earlier login.
        token = None if self.may_send_token else ""
        return modelscope_hub.HubConfig(endpoint=self.endpoint, token=token)

    @functools.cached_property
    def _api(self) -> Any:
        return modelscope_hub.HubApi(self._config)

    def folder(self, listing: Listing) -> Path:
        return self.local_dir or self._folder(listing.repo, listing.revision or DEFAULT_REVISION)

    def place(self, listing: Listing, file: RemoteFile) -> Path:
        return self.folder(listing) / file.path

    def partial(self, listing: Listing, file: RemoteFile) -> Path:
        target = self.place(listing, file)
        return target.with_name(target.name + ".incomplete")

    def partials(self) -> list[Path]:
        """A note beside it says that it was begun here; the client's own have none."""
        notes = Path(self._config.cache_dir).glob(f"**/*.incomplete{NOTE}")
        return [path for note in notes for path in (note, note.with_suffix("")) if path.is_file()]

    def promised(self, listing: Listing, file: RemoteFile) -> str | None:
        try:
            return _note(self.partial(listing, file)).read_text(encoding="ascii")
        except (OSError, ValueError):
            return None

    def _folder(self, repo: str, revision: str) -> Path:
        cache = Path(self._config.cache_dir)
        owner, name = repo.split("/")
        # Where clients up to 1.37 put it, and where this one still looks first.
        for top in (cache / "models", cache / "hub" / "models"):
            old = top / owner / name.replace(".", "___")
            if old.is_dir() and any(old.iterdir()):
                return old
        return cache / "models" / f"{owner}--{name}" / "snapshots" / revision

    def _cached(self, repo: str, revision: str | None) -> Path | None:
        try:
            api = self._api
            return Path(api.download_repo(repo, "model", revision=revision, local_files_only=True))
        except modelscope_hub.CacheNotFound:
            return None

    def _list(self, repo: str, revision: str | None) -> Listing:
        entries = self._api.legacy.list_repo_files(repo, "model", revision or DEFAULT_REVISION)
        blobs = [e for e in entries if e.get("Type") != "tree"]
        files = (RemoteFile(e["Path"], int(e["Size"]), e.get("Sha256") or None) for e in blobs)
        # A listing does not name its commit: the latest of the files' own commits is it.
        commits = sorted((e.get("CommittedDate") or 0, e.get("Revision") or "") for e in blobs)
        return Listing(repo, revision, commits[-1][1] if commits else None, tuple(files))

    def _fetch(self, listing: Listing, file: RemoteFile, tick: Tick) -> None:
        target = self.place(listing, file)
        note = _note(self.partial(listing, file))
        if file.sha256 and not target.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(file.sha256, encoding="ascii")
        try:
            self._api.downloader.download_file(
                listing.repo,
                "model",
                file.path,
                revision=listing.revision or DEFAULT_REVISION,
                local_dir=self.local_dir,
                expected_sha256=file.sha256,
                file_size=file.size,
                progress_callbacks=[_callback(tick)],
            )
        except modelscope_hub.FileIntegrityError as error:
            target.unlink(missing_ok=True)
            expected = f"sha256 {file.sha256}" if file.sha256 else f"{file.size} bytes"
            raise Damaged(expected, _got(str(error))) from error
        note.unlink(missing_ok=True)

    @contextmanager
    def request(
        self, listing: Listing, file: RemoteFile, start: int, stop: int
    ) -> Iterator[Answer]:
        wanted = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        revision = listing.revision or DEFAULT_REVISION
        legacy = self._api.legacy
        with legacy.download_stream(
            listing.repo, "model", file.path, revision, headers=wanted
        ) as response:
            span = response.headers.get("Content-Range", "")
            yield Answer(response.status_code, span, response.iter_content(BLOCK))

    def _page(self, repo: str) -> str:
        return f"https://modelscope.cn/models/{repo}"


def _note(partial: Path) -> Path:
    """Beside a partial file: what it will be, for it is named by its path and not by its sum."""
    return partial.with_name(partial.name + NOTE)


def _got(message: str) -> str:
    """The client names what came only in its message, the checksum by its first digits."""
    match = re.search(r"got ([0-9a-f]{8,}\.*)", message)
    return f"sha256 {match[1]}" if match else message


def _callback(tick: Tick) -> type[Any]:
    """A callback class as the client wants it: one instance a file, told the bytes that came."""

    class Ticker:
        def __init__(self, filename: str, size: int) -> None:
            self.done = 0

        def update(self, count: int) -> None:
            self.done += count
            tick(self.done)

        def end(self) -> None:
            pass

    return Ticker
