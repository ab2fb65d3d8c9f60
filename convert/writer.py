"""A file that appears only when it is complete; knows bytes, locks and disks, and no tensor."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from filelock import FileLock, Timeout

from portable.errors import Busy, DiskError, UsageError
from portable.platforms import is_file_name

LOCK_SECONDS = 2.0
SPARE_BYTES = 1 << 20


def check_output(path: Path, source: Path) -> None:
    """UsageError for a target that cannot become a file, before any work is done."""
    text = str(path)
    if any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise UsageError(f"the output name {text!r} holds control characters", param="output")
    try:
        problem = _problem(path, source)
    except OSError as error:
        problem = f"cannot be used: {error.strerror}"
    if problem:
        raise UsageError(f"{path} {problem}", hint="choose another --output", param="output")


def _problem(path: Path, source: Path) -> str:
    if path.name in ("", ".", "..") or len(path.name.encode()) > 200 or not is_file_name(path.name):
        return "is not a usable file name"
    if path.is_symlink():
        return "is a symbolic link"
    if path.is_dir():
        return "is a folder"
    if path.exists() and not path.is_file():
        return "is not an ordinary file"
    parent = path.parent
    if not parent.is_dir():
        return f"cannot be written: there is no folder {parent}"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"cannot be written: no permission to write in {parent}"
    if path.exists() and parent.resolve() == source.resolve() and path.suffix != ".gguf":
        return "is part of the checkpoint"
    return ""


@contextmanager
def locked(path: Path, *, resume: bool = False) -> Iterator[None]:
    """Holds the right to write `path`; Busy when another conversion does not let go of it.

    What earlier conversions left is removed, but for what one that can `resume` would go on with.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise Busy(
            f"{path} is being written by another conversion", hint="wait for it, or end it"
        ) from error
    except OSError as error:
        raise disk_error(error, f"{path} cannot be locked") from error
    try:
        remove_partials(path, keep=kept_names(path) if resume else ())
        yield
    finally:
        # Gone before the lock is: a waiter then finds either the old file or makes a new one.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def kept_names(path: Path) -> tuple[str, str]:
    """A half file that a later run goes on with, and the journal that says how far it is."""
    return f".{path.name}.streamed.partial", f".{path.name}.streamed.journal"


def remove_partials(path: Path, keep: Sequence[str] = ()) -> None:
    """What a killed conversion left: whoever holds the lock knows that nobody writes it."""
    with suppress(OSError):
        for left in path.parent.iterdir():
            if (
                left.name.startswith(f".{path.name}.")
                and left.suffix in (".partial", ".journal", ".new")
                and left.name not in keep
            ):
                left.unlink()


def check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed + SPARE_BYTES:
        raise DiskError(
            f"not enough room in {path.parent}: needs {size_text(needed)}, {size_text(free)} free",
            hint="free some space, or choose another --output",
        )


def size_text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def disk_error(error: OSError, what: str) -> DiskError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return DiskError(f"disk full: {what} ({reason})", hint="free some space and try again")
    return DiskError(f"{what}: {reason}", hint="check the disk and its permissions")


class PartialFile:
    """Writes beside `path` under a name that nothing loads; `commit` puts it in place.

    The first bytes are zeros until `commit`, so even a copy of the partial file cannot be loaded.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        name = f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial"
        self.partial = path.with_name(name)
        self.written = 0

    def __enter__(self) -> PartialFile:
        with self.reported():
            self._file: BinaryIO = self.partial.open("xb", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.partial.unlink(missing_ok=True)

    def write(self, data: bytes | memoryview) -> None:
        with self.reported():
            view = memoryview(data).cast("B")
            while view:
                done = self._file.write(view)
                self.written += done
                view = view[done:]

    def commit(self, head: bytes, accept: Callable[[Path], None] = lambda _: None) -> None:
        """Writes `head` at the front, makes all of it durable, checks it, and renames.

        `accept` may still refuse the file, by an error.
        """
        with self.reported():
            os.fsync(self._file.fileno())
            self._file.seek(0)
            self._file.write(head)
            os.fsync(self._file.fileno())
            self._file.close()
            self._check(head)
        accept(self.partial)
        with self.reported():
            self.partial.replace(self.path)
            sync_folder(self.path.parent)

    def _check(self, head: bytes) -> None:
        with self.partial.open("rb") as file:
            same = file.read(len(head)) == head
            size = file.seek(0, os.SEEK_END)
        if not same or size != self.size:
            raise DiskError(
                f"{self.path} was written wrongly: {size} of {self.size} bytes",
                hint="check the disk",
            )

    @contextmanager
    def reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"{self.path} needs {size_text(self.size)}, {size_text(self.written)} written"
            raise disk_error(error, what) from error


class KeptFile(PartialFile):
    """One that stays when its writing is interrupted, and is written at any place."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, size)
        self.partial = path.with_name(kept_names(path)[0])

    def __enter__(self) -> KeptFile:
        with self.reported():
            self._file = self.partial.open("r+b" if self.partial.exists() else "x+b", buffering=0)
            self._file.truncate(self.size)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()

    def write_at(self, offset: int, data: memoryview) -> None:
        with self.reported():
            self._file.seek(offset)
        self.write(data)

    def sync(self) -> None:
        """Makes durable what is written."""
        with self.reported():
            os.fsync(self._file.fileno())

    def sha256(self, start: int) -> str:
        """The digest of everything from `start` on, as it lies on the disk."""
        digest = hashlib.sha256()
        with self.reported():
            self._file.seek(start)
            while block := self._file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def remove(self) -> None:
        self._file.close()
        with suppress(OSError):
            self.partial.unlink()


def sync_folder(folder: Path) -> None:
    """The rename itself must survive a power cut; Windows has no such call."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
