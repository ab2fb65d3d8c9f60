"""Git-lfs pointers: the few lines that a clone without git-lfs has in place of a large file."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

MARK = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 1024  # bytes, by git-lfs's specification


def pointers(paths: Iterable[Path]) -> list[Path]:
    """Those of the files that are pointers."""
    return [path for path in paths if is_pointer(path)]


def is_pointer(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size > MAX_POINTER:
            return False
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def pull(folder: Path) -> str:
    """The command that fetches what the pointers of this clone stand for."""
    return f"git -C {shlex.quote(str(folder))} lfs pull"
