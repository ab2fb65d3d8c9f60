"""What a model and a file may be called on a hub, and which GGUF is meant; touches nothing.

parse("hf://org/name@rev:Q8_0")  ->  Ref(hub="hf", repo="org/name", revision="rev", quant="Q8_0")
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from portable import gguf
from portable.errors import ModelFileError, UsageError
from portable.progress import size

SCHEMES = {"ms://": "ms", "modelscope://": "ms", "hf://": "hf"}
_REF = re.compile(r"(?P<repo>[^@]+?)(?:@(?P<revision>[^@:]+))?(?::(?P<quant>[A-Za-z0-9_]+))?")
_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]*", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Ref(NamedTuple):
    """A model as the user names it; `hub` is None when no scheme was given."""

    hub: str | None
    repo: str
    revision: str | None = None
    quant: str | None = None


class RemoteFile(NamedTuple):
    """`size` in bytes; `oid` is git's own checksum, which small files have instead of sha256."""

    path: str
    size: int
    sha256: str | None = None
    oid: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit; `revision` is what was asked for."""

    repo: str
    revision: str | None
    commit: str | None
    files: tuple[RemoteFile, ...]

    def select(self, patterns: Sequence[str]) -> list[RemoteFile]:
        """Files that a pattern names; a pattern without `/` means the top folder only."""
        return [f for f in self.files if any(_matches(f.path, p) for p in patterns)]

    @property
    def ggufs(self) -> list[RemoteFile]:
        """Language models; the weights of a vision encoder or an importance matrix are none."""
        return [f for f in self.files if gguf.is_model(f.path)]


def parse(text: str) -> Ref:
    """`[scheme://]name[@revision][:quant]`; the name is `org/name` or one of the catalogue."""
    scheme = next((s for s in SCHEMES if text.lower().startswith(s)), "")
    rest = text[len(scheme) :].strip()
    match = _REF.fullmatch(rest)
    fields = match.groupdict() if match else {"repo": rest}
    return Ref(SCHEMES.get(scheme), **fields)


def has_gguf(listing: Listing, quant: str) -> bool:
    return any(gguf.has_quant(f.path, quant) for f in listing.ggufs)


def is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text)) and ".." not in text


def unsafe_name(path: str) -> bool:
    """Whether a hub's file name could leave its folder, or be something else on some system."""
    parts = path.split("/")
    return (
        bool(re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', path))
        or any(part in ("", ".", "..") or part[-1] in ". " for part in parts)
        or any(len(part.encode("utf-8", "replace")) > 200 for part in parts)
        or any(_RESERVED.fullmatch(part) for part in parts)
    )


def choose_gguf(listing: Listing, quant: str | None, default: str) -> list[RemoteFile]:
    """The file of that quant, else of the default one, else the first; names in any letter case.

    Of a split model it is all files, in order.
    """
    files = sorted(listing.ggufs, key=lambda f: (_shards(f.path)[1:] != [], f.path))
    wanted = quant or default
    named = [f for f in files if gguf.has_quant(f.path, wanted)]
    if quant and not named:
        sizes = {f.path: f.size for f in files}
        firsts = [f.path for f in files if _shards(f.path)[0] == f.path][:12]
        names = ", ".join(
            f"{path} ({size(sum(sizes.get(part, 0) for part in _shards(path)))})" for path in firsts
        )
        raise UsageError(f"{listing.repo} has no {quant} file", hint=f"it has {names}")
    paths = {f.path: f for f in files}
    every = _shards((named or files)[0].path)
    missing = [path for path in every if path not in paths]
    if missing:
        raise ModelFileError(
            f"{listing.repo} lacks {len(missing)} of {len(every)} parts: {', '.join(missing[:4])}",
            hint="choose another quant as org/name:QUANT",
        )
    return [paths[path] for path in every]


def _shards(path: str) -> list[str]:
    folder, slash, name = path.rpartition("/")
    return [folder + slash + shard for shard in gguf.shard_names(name)]


def is_revision(text: str) -> bool:
    return bool(_REVISION.fullmatch(text)) and ".." not in text


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)
