"""The nouns of obtaining: what was asked for, which repository is meant, what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import convert
from portable import catalogue, hub
from portable.progress import Report

Say = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """A GGUF at `path`. `id` is the name it is served by, `full_id` its `org/name` on a hub;
    `source` one line on where it came from."""

    path: Path
    id: str
    full_id: str | None = None
    aliases: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Room:
    """Bytes: `free` in the hub's cache, at `folder`; a checkpoint's `weights`, how much of them is
    `missing` there, and about what is `needed` to store these and the file that is made of them."""

    folder: Path
    free: int
    weights: int
    missing: int
    needed: int

    @property
    def short(self) -> bool:
        return self.free < self.needed

    def streams(self, keep: bool | None) -> bool:
        """Whether the weights are not to be stored; `keep` is what the user says to that."""
        return self.short if keep is None else not keep


@dataclass(frozen=True)
class Checkpoint:
    """A folder to convert; `name` is the model's, for the folder may be called by a commit.

    `weights` are not in the folder: they are to be converted as they stream. `room` is for those of
    a hub, stored or not.
    """

    folder: Path
    name: str
    entry: catalogue.Entry | None = None
    full_id: str | None = None
    commit: str | None = None
    weights: tuple[hub.HubFile, ...] = ()
    room: Room | None = None


@dataclass(frozen=True)
class Target:
    """One repository of one hub, with what the catalogue knows of it."""

    hub: str
    repo: str
    entry: catalogue.Entry | None = None

    def on(self, hub: str) -> str:
        """What the same model is called on that hub."""
        return self.entry.on(hub) if self.entry else self.repo

    @property
    def suffix(self) -> str:
        return self.repo.rpartition("/")[2]

    @property
    def quant(self) -> str:
        return self.entry.quant if self.entry else convert.DEFAULT_QUANT


@dataclass(frozen=True)
class Found:
    """A target where it can be had: listed by its hub, or offline in `folder`.

    `why` says why this hub.
    """

    target: Target
    source: hub.Hub
    listing: hub.Listing | None = None
    folder: Path | None = None
    why: str = ""

    @property
    def where(self) -> str:
        return self.source.title + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True)
class Wish:
    """What was asked for, beside the name. `quant` None: the model's own default.

    `keep`: whether a checkpoint is stored before it is converted; None: if the disk can hold it.
    `dry_run`: no weights are fetched, but what their headers say. `imatrix`: what the conversion
    will be given. `force`: what fits neither disk nor memory is fetched all the same.
    """

    quant: str | None
    revision: str | None
    offline: bool
    say: Say
    report: Report
    keep: bool | None = None
    dry_run: bool = False
    imatrix: Path | None = None
    force: bool = False

    def waiting(self, name: str) -> Callable[[], None]:
        """What to do when another process is making the model already."""
        return lambda: self.say(
            f"{name} is being made by another process: waiting for it (Ctrl-C stops waiting)"
        )
