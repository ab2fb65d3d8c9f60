"""What this machine has, and whether a file may be a model; asks no llama.cpp."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil

from portable import gguf
from portable.engine.buffers import HOST
from portable.engine.offload.device import Device
from portable.engine.processor import processor
from portable.errors import ModelFileError


def host() -> Device:
    """This machine's memory, as far as this process may still take it."""
    total = psutil.virtual_memory().total
    return Device(HOST, processor().name, available_memory(), total, "cpu", HOST)


def check_file(path: Path) -> None:
    """Refuse what llama.cpp would hang on or misread: a FIFO, a directory, half a file or model."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") if stat.S_ISREG(mode) else contextlib.nullcontext() as file:
            magic = file.read(4) if file else b""
    except OSError as error:
        raise ModelFileError(
            f"{path}: {error.strerror}", hint="give the path of a .gguf file"
        ) from None
    if path.suffix == ".partial" and magic != gguf.MAGIC:
        raise ModelFileError(
            f"{path} is an unfinished conversion", hint="run portable convert again"
        )
    if magic != gguf.MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file", hint="portable convert makes one")
    gguf.check_shards(path)


def available_memory(
    cgroups: Path = Path("/sys/fs/cgroup"), member: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes that this process can still take: the machine's, or its container's if that is less."""
    free: list[int] = [psutil.virtual_memory().available]
    for folder in _memory_groups(cgroups, member):
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with contextlib.suppress(OSError, ValueError):  # no such file, or its limit is "max"
                most, used = int(_text(folder / limit)), int(_text(folder / usage))
                stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
                # Files that were read count as used and are given back at need. The first version
                # of control groups counts those of the groups within apart.
                cached = sum(
                    int(stat.get(f"total_{kind}_file", stat.get(f"{kind}_file", 0)))
                    for kind in ("active", "inactive")
                )
                free.append(most - used + cached)
    return max(0, min(free))


def _memory_groups(cgroups: Path, member: Path) -> Iterator[Path]:
    """The control groups that bound this process: its own and all around it.

    A container sees its own as the root, whatever path the file has; systemd's limits lie below.
    """
    yield from (cgroups, cgroups / "memory")
    with contextlib.suppress(OSError, ValueError):
        for line in _text(member).splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root, folder = cgroups / controllers, cgroups / controllers / path.strip("/")
                yield from (each for each in (folder, *folder.parents) if root in each.parents)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
