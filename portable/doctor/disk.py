"""The disk that models go to: room, and whether it is one to keep them on."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from portable import folders
from portable.doctor.finding import Finding

GB = 1e9
_NONE, _LITTLE = 1 * GB, 10 * GB
_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse.sshfs",
    "afp",
    "webdav",
    "glusterfs",
    "ceph",
    "lustre",
)
_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Disk:
    """The store's folder, bytes free there, why nothing can be written, and its file system."""

    folder: str
    free: int
    refused: str = ""
    system: str = ""


def gather() -> Disk:
    folder = folders.home().absolute()
    for there in (folder, *folder.parents):  # the nearest one that is there, and may be asked
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(there).free
            return Disk(str(folder), free, _refused(there), _system(there))
    return Disk(str(folder), 0, "there is no such disk")


def judge(facts: Disk, kind: str = sys.platform) -> Iterator[Finding]:
    """`kind` is sys.platform."""
    found = f"{facts.folder}: {facts.free / GB:.1f} GB free"
    elsewhere = (
        '$env:PORTABLE_HOME="D:\\portable"'
        if kind == "win32"
        else "export PORTABLE_HOME=/large/disk"
    )
    if facts.refused:
        what, mend = f"{facts.folder} cannot be written: {facts.refused}", "use a folder of yours"
        yield Finding("disk", "FAIL", what, mend, elsewhere)
    elif facts.free < _NONE:
        mend = "free some space (portable rm MODEL, portable rm --partial) or use another disk"
        yield Finding("disk", "FAIL", f"{found}: no model fits", mend, elsewhere)
    elif facts.free < _LITTLE:
        mend = "free some space (portable rm MODEL, portable rm --partial) or use another disk"
        yield Finding("disk", "WARN", f"{found}: only small models fit", mend, elsewhere)
    elif facts.system.startswith(_NETWORK):
        what = f"{found}, over the network ({facts.system}): models load slowly"
        yield Finding("disk", "WARN", what, "use a disk of this machine", elsewhere)
    elif facts.system in _MEMORY:
        what = f"{found}, in memory ({facts.system}): models are gone after a restart"
        yield Finding("disk", "WARN", what, "use a disk", elsewhere)
    else:
        yield Finding("disk", "OK", found + (f" ({facts.system})" if facts.system else ""))


def _refused(folder: Path) -> str:
    """Asked by doing it: permissions, read-only mounts and quotas all count."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return "" if full else str(error.strerror)
    return ""


def _system(folder: Path) -> str:
    """The type of the file system that it is mounted from, by the longest name above it."""
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error, RuntimeError):
        return ""
    real = folder.resolve()
    above = [mount for mount in mounts if real.is_relative_to(mount.mountpoint)]
    found = max(above, key=lambda mount: len(mount.mountpoint), default=None)
    return str(found.fstype).lower() if found else ""
