"""What one hub's cache has of the files that another is to give; nothing is mixed unchecked.

A file counts as the same when the sha256 that the other hub lists for it is the one of the bytes
that are here: computed for a whole file, and for a part the one it was being fetched for.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from portable.hub.base import Hub, checksum
from portable.hub.names import Listing, RemoteFile

_SHA256 = re.compile("[0-9a-f]{64}")


class Taken(NamedTuple):
    """Paths of files whose bytes were the same, and of those that differ between the hubs."""

    same: list[str]
    differ: list[str]


def take_over(
    source: Hub, listing: Listing, files: Sequence[RemoteFile], earlier: Hub, repo: str
) -> Taken:
    """Give `source` what `earlier` fetched of these files, which it calls `repo`.

    `listing` is what `source` lists now. Raises NetworkError for a dangerous file name.
    """
    source.check_names(listing, files)
    theirs = replace(listing, repo=repo)
    taken = Taken([], [])
    for file in files:
        if not _SHA256.fullmatch(file.sha256 or "") or source.missing(listing, file) < file.size:
            continue  # there is no sum to compare, or a part of this hub's own
        if found := _held(earlier, theirs, file):
            path, sha256 = found
            if sha256 != file.sha256:
                taken.differ.append(file.path)
            elif _give(path, source, listing, file):
                taken.same.append(file.path)
    return taken


def _held(hub: Hub, listing: Listing, file: RemoteFile) -> tuple[Path, str] | None:
    """The whole file or a part of it, and the sha256 that the whole has."""
    whole, part = hub.place(listing, file), hub.partial(listing, file)
    if whole.is_file():
        return whole, checksum(whole, file)[1].rpartition(" ")[2]
    promised = hub.promised(listing, file)
    return (part, promised) if promised and part.is_file() else None


def _give(path: Path, source: Hub, listing: Listing, file: RemoteFile) -> bool:
    """False where that cannot be: the download, which comes next, says why."""
    target = source.place(listing, file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".incomplete"):
            shutil.move(path, source.partial(listing, file))
        elif source.local_dir:  # the user may write to it, and the cache's file must stay as it is
            shutil.copy2(path, target)
        else:
            _link(path, target)
    except OSError:
        return False
    return True


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(path, target)
