"""Which hub a model comes from when its name does not say, and why; downloads nothing.

ModelScope is asked first. Hugging Face is taken when the id exists only there, or when ModelScope
does not answer within two seconds and it does; that is remembered for a while.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from portable import folders, hub, store
from portable.errors import DiskError, NetworkError, NotOnHub, PortableError
from portable.obtain.model import Found, Target, Wish

SILENT_SECONDS = 3600.0  # a network that cannot reach a hub may be left behind soon
ABSENT_SECONDS = 7 * 86400.0  # a model that a hub does not have may be put there
ANY = "*"


def choose(targets: Sequence[Target], wish: Wish) -> Found:
    """The first of `targets` that can be had; with one target, that one or an error.

    Raises NotOnHub when no hub has the model, and NetworkError when one that could does not answer.
    """
    sources = [hub.connect(target.hub) for target in targets]
    if len(targets) == 1:
        return _found(targets, sources, 0, wish, "")
    memory = Memory(sources)
    repo = targets[0].repo
    if why := memory.find(repo) or memory.find(ANY):
        with suppress(PortableError):
            return _found(targets, sources, 1, wish, why)
    for source in sources:
        _ = source.probe  # both at once
    return _ask(targets, sources, wish, memory)


def _ask(targets: Sequence[Target], sources: list[hub.Hub], wish: Wish, memory: Memory) -> Found:
    first, second = sources
    try:
        found = _found(targets, sources, 0, wish, "it answers, and is asked first")
        memory.forget(targets[0].repo)
        return found
    except (NotOnHub, NetworkError) as error:
        if not second.probe.answered:
            raise _neither(error, first, second) from None
        silent = not first.probe.answered
        absent = isinstance(error, NotOnHub)
        why = f"{first.title} does not have it" if absent else error.message
        try:
            found = _found(targets, sources, 1, wish, why)
        except NotOnHub as other:
            raise _nowhere(error, other, sources) from None
        except PortableError:
            raise error from None
        if silent or absent:
            memory.remember(ANY if silent else targets[0].repo, why)
        return found


def _found(
    targets: Sequence[Target], sources: list[hub.Hub], index: int, wish: Wish, why: str
) -> Found:
    target, source = targets[index], sources[index]
    listing = source.listing(target.repo, wish.revision)
    return Found(target, source, listing, why=why)


def _neither(error: PortableError, first: hub.Hub, second: hub.Hub) -> PortableError:
    """`error` is the first hub's; the second does not answer."""
    silent = f"{second.title} ({second.host}) does not answer"
    if first.probe.answered:
        return type(error)(f"{error.message}; {silent}", hint=error.hint)
    return NetworkError(
        f"neither {first.title} ({first.host}) nor {second.title} ({second.host}) answers",
        hint=f"check the network and HTTPS_PROXY, or name a mirror in {first.endpoint_variable} "
        f"or {second.endpoint_variable}; --offline uses what is on this disk",
    )


def _nowhere(error: PortableError, other: NotOnHub, hubs: Sequence[hub.Hub]) -> PortableError:
    """`error` is the first hub's; the second has no such model."""
    message = f"{error.message}; {other.message}"
    if not isinstance(error, NotOnHub):
        return NetworkError(message, hint=error.hint)
    tokens = " or ".join(one.token_variable for one in hubs)
    return NotOnHub(message, hint=f"check the spelling; for a private one set {tokens}")


class Memory:
    """`<home>/hubs.json`: why the second hub was taken, by model or for any, until it is too old.

    It holds for the hubs' present addresses only. A file that cannot be read or written is none.
    """

    def __init__(self, sources: Sequence[hub.Hub], clock: Callable[[], float] = time.time) -> None:
        self.where = " ".join(
            urlsplit(source.endpoint).netloc.rpartition("@")[2] for source in sources
        )
        self.clock = clock

    @property
    def path(self) -> Path:
        return folders.home() / "hubs.json"

    def find(self, repo: str) -> str | None:
        entry = self._load().get(f"{self.where} {repo}")
        if not entry:
            return None
        return f"{entry['why']}, as seen {time.strftime('%F %R', time.localtime(entry['at']))}"

    def remember(self, repo: str, why: str) -> None:
        self._save({**self._load(), f"{self.where} {repo}": {"why": why, "at": self.clock()}})

    def forget(self, repo: str) -> None:
        entries = self._load()
        kept = {
            k: v
            for k, v in entries.items()
            if k not in (f"{self.where} {repo}", f"{self.where} {ANY}")
        }
        if kept != entries:
            self._save(kept)

    def _load(self) -> dict[str, dict[str, Any]]:
        """What is not too old."""
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            return {key: entry for key, entry in entries.items() if self._fresh(key, entry)}
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            return {}

    def _fresh(self, key: str, entry: dict[str, Any]) -> bool:
        seconds = SILENT_SECONDS if key.endswith(f" {ANY}") else ABSENT_SECONDS
        return isinstance(entry["why"], str) and 0 <= self.clock() - entry["at"] < seconds

    def _save(self, entries: dict[str, dict[str, Any]]) -> None:
        with suppress(OSError, DiskError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            store.write(self.path, json.dumps(entries, indent=2))
