"""Hugging Face, through `huggingface_hub`, into its own cache.

Its downloader forgets a half file when the process ends. So the bytes are fetched by its `http_get`
into a partial file that stays, checked, and renamed to the blob that its cache expects; then
`hf_hub_download` finds the blob there and only links it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import huggingface_hub as hf
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status, http_stream_backoff

from portable.errors import NetworkError
from portable.hub.base import BLOCK, Answer, Hub, Tick, checksum
from portable.hub.names import Listing, RemoteFile
from portable.hub.site import Damaged

# What matters reaches us as exceptions; a cut loses at most one chunk, 10 MB by its default.
logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
constants.DOWNLOAD_CHUNK_SIZE = BLOCK

PARTIAL = ".portable.incomplete"


class HuggingFace(Hub):
    key = "hf"
    title = "Hugging Face"
    endpoint_variable = "HF_ENDPOINT"
    token_variable = "HF_TOKEN"

    @property
    def endpoint(self) -> str:
        return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")

    @property
    def _token(self) -> str | bool:
        return (hf.get_token() or False) if self.may_send_token else False

    def _storage(self, repo: str) -> Path:
        cache = Path(constants.HF_HUB_CACHE).expanduser()
        return cache / repo_folder_name(repo_id=repo, repo_type="model")

    def folder(self, listing: Listing) -> Path:
        if self.local_dir:
            return self.local_dir
        return self._storage(listing.repo) / "snapshots" / str(listing.commit)

    def place(self, listing: Listing, file: RemoteFile) -> Path:
        if self.local_dir:
            return self.local_dir / file.path
        return self._blob(listing, file)

    def partial(self, listing: Listing, file: RemoteFile) -> Path:
        target = self.place(listing, file)
        return target.with_name(target.name + PARTIAL)

    def partials(self) -> list[Path]:
        return list(Path(constants.HF_HUB_CACHE).expanduser().glob(f"models--*/blobs/*{PARTIAL}"))

    def promised(self, listing: Listing, file: RemoteFile) -> str | None:
        """In the cache it is named by its checksum."""
        return None if self.local_dir else file.sha256

    def _cached(self, repo: str, revision: str | None) -> Path | None:
        try:
            return Path(hf.snapshot_download(repo, revision=revision, local_files_only=True))
        except FileNotFoundError:
            return None

    def _list(self, repo: str, revision: str | None) -> Listing:
        api = hf.HfApi(endpoint=self.endpoint, token=self._token)
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=30)
        if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
            raise NetworkError(f"{self.host} names no commit of {repo}: {info.sha!r}")
        files = (
            RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None, s.blob_id)
            for s in info.siblings or []
        )
        return Listing(repo, revision, info.sha, tuple(files))

    def _fetch(self, listing: Listing, file: RemoteFile, tick: Tick) -> None:
        pointer = self.folder(listing) / file.path
        if pointer.is_file():
            blob = pointer if self.local_dir else pointer.resolve()
            _check(pointer, file, blob, pointer)
            return
        blob, lock = self.place(listing, file), self._lock(listing, file)
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not blob.exists():
                self._download(listing, file, tick)
        if self.local_dir:
            return
        self._link(listing, file)
        if pointer.resolve() != blob.resolve():
            _check(pointer, file, pointer)

    def _lock(self, listing: Listing, file: RemoteFile) -> Path:
        storage, name = self._storage(listing.repo), self.place(listing, file).name
        return storage.parent / ".locks" / storage.name / f"{name}.lock"

    def _blob(self, listing: Listing, file: RemoteFile) -> Path:
        """The cache names a file by its checksum, which must be one to be a file name."""
        name = file.sha256 or file.oid or ""
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
            raise NetworkError(f"{self.host} names no checksum of {file.path}: {name!r}")
        return self._storage(listing.repo) / "blobs" / name

    def _download(self, listing: Listing, file: RemoteFile, tick: Tick) -> None:
        partial = self.partial(listing, file)
        there = partial.stat().st_size if partial.exists() else 0
        if there > file.size:
            partial.unlink()
            there = 0
        headers = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        with partial.open("ab") as stream:
            try:
                http_get(
                    self._url(listing, file),
                    stream,
                    resume_size=there,
                    headers=headers,
                    expected_size=file.size,
                    tqdm_class=_bar(tick),
                )
            except OSError as error:
                if "Consistency check" not in str(error):
                    raise
        _check(partial, file, partial)
        partial.replace(self.place(listing, file))

    @contextmanager
    def request(
        self, listing: Listing, file: RemoteFile, start: int, stop: int
    ) -> Iterator[Answer]:
        wanted = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        with http_stream_backoff(
            "GET",
            self._url(listing, file),
            headers=build_hf_headers(token=self._token) | wanted,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            retry_on_exceptions=(),
            retry_on_status_codes=(429,),
        ) as response:
            hf_raise_for_status(response)
            span = response.headers.get("Content-Range", "")
            yield Answer(response.status_code, span, response.iter_bytes(BLOCK))

    def _url(self, listing: Listing, file: RemoteFile) -> str:
        return hf.hf_hub_url(
            listing.repo, file.path, revision=listing.commit, endpoint=self.endpoint
        )

    def _link(self, listing: Listing, file: RemoteFile) -> None:
        """The client's own last step: the snapshot's name for a blob that is there."""
        hf.hf_hub_download(
            listing.repo,
            file.path,
            revision=listing.commit,
            endpoint=self.endpoint,
            token=self._token,
            tqdm_class=_bar(lambda _: None),
        )
        refs = self._storage(listing.repo) / "refs" / (listing.revision or "main")
        if listing.commit and listing.revision != listing.commit:
            refs.parent.mkdir(parents=True, exist_ok=True)
            refs.write_text(listing.commit, encoding="ascii")

    def _page(self, repo: str) -> str:
        return f"https://huggingface.co/{repo}"


def _check(path: Path, file: RemoteFile, *discard: Path) -> None:
    expected, got = checksum(path, file)
    if expected != got:
        for name in discard:
            name.unlink(missing_ok=True)
        raise Damaged(expected, got)


def _bar(tick: Tick) -> type[Any]:
    """A progress bar class as the client wants it, which draws nothing and tells the bytes."""

    class Bar:
        def __init__(self, *args: object, initial: int = 0, **rest: object) -> None:
            self.done = initial
            tick(initial)

        def update(self, count: int = 1) -> None:
            self.done += count
            tick(self.done)

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            self.close()

        def close(self) -> None:
            pass

    return Bar
