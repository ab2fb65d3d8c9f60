"""The folder of saved states: found, verified, bounded in bytes; knows no slot and no model.

Models and processes share it without a lock. A file appears whole, under a name that follows from
what is in it; one that another process deleted is no longer there, and that is all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from portable.engine.prompts import file as promptfile
from portable.engine.prompts.file import Damaged

if TYPE_CHECKING:
    from portable.engine.backend import State

log = logging.getLogger("portable")

DEFAULT_BYTES = 2 << 30
_SHARE_OF_FREE = 10
_STALE_SECONDS = 600.0  # no file takes so long to write


class PromptCache:
    """States of one `identity`, in a folder where others keep theirs.

    All of them together take at most `most` bytes; None is 2 GiB, or a tenth of the free disk where
    that is less. The longest unused go first. Whatever the disk refuses ends saving with one line
    in the log, and nothing else. One thread calls; files are written in another.
    """

    def __init__(self, folder: Path, identity: bytes, most: int | None = None) -> None:
        self.states: dict[Path, list[int]] = {}
        self.most = 0
        self._folder, self._identity = folder, identity
        self._writer = ThreadPoolExecutor(1, "prompts")
        self._writing: Future[None] | None = None
        try:
            self._make_folder()
            self.most = self._default() if most is None else most
            self.scan()
        except OSError as error:
            self._give_up(error)

    @property
    def is_busy(self) -> bool:
        """Whether a file is being written."""
        return self._writing is not None and not self._writing.done()

    def scan(self) -> None:
        """Learn what is there: other processes save and delete, too."""
        states: dict[Path, list[int]] = {}
        for path in self._folder.glob(promptfile.prefix_of(self._identity) + "*"):
            try:
                known = self.states.get(path)
                states[path] = known or promptfile.read_head(path, self._identity).tokens
            except (OSError, Damaged) as error:
                self._refuse(path, error)
        self.states = states
        for path in self._folder.glob("*" + promptfile.PARTIAL):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def read(self, path: Path) -> State | None:
        """A state, verified; None if it is damaged or gone, and then it is forgotten."""
        try:
            state = promptfile.read(path, self._identity)
        except (OSError, Damaged) as error:
            self._refuse(path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
        return state

    def drop(self, path: Path) -> None:
        """Nobody can use this state."""
        self.states.pop(path, None)
        with contextlib.suppress(OSError):
            path.unlink()

    def write(
        self, tokens: list[int], state: State, useless: Iterable[Path] = (), age: float = 0
    ) -> None:
        """Save a state, in a while, and then delete those that it makes useless.

        `age`: seconds since it was of use. States that were used later do not go for its sake.
        """
        path = self._folder / promptfile.name_of(self._identity, tokens)
        gone = list(useless)
        for old in gone:
            del self.states[old]
        self.states[path] = tokens
        work = (path, tokens, state, gone, time.time() - age)
        self._writing = self._writer.submit(self._write, *work)

    def wait(self) -> None:
        """Returns when everything is written."""
        if self._writing:
            self._writing.result()

    def close(self) -> None:
        self._writer.shutdown()

    def _write(
        self, path: Path, tokens: list[int], state: State, useless: list[Path], used: float
    ) -> None:
        try:
            self._make_folder()
            if not self._make_room(state.nbytes + promptfile.head_size(len(tokens)), used):
                return
            promptfile.write(path, self._identity, tokens, state, used)
            for old in useless:
                old.unlink(missing_ok=True)
        except FileNotFoundError:
            log.debug("%s was deleted while it was written", path)
        except OSError as error:
            self._give_up(error)

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _make_room(self, size: int, used: float) -> bool:
        """Make `size` bytes fit, at the cost of states, of any model, used before `used`."""
        files = self._files()
        over = sum(taken for _, taken, _ in files) + size - self.most
        going = []
        for when, taken, path in files:
            if over > 0 and when <= used:
                going.append(path)
                over -= taken
        if over > 0:
            return False
        for path in going:
            path.unlink(missing_ok=True)
        return True

    def _files(self) -> list[tuple[float, int, Path]]:
        """When it was used, its size and its path for each state, the longest unused first."""
        files = []
        for path in self._folder.glob("*" + promptfile.SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                info = path.stat()
                files.append((info.st_mtime, info.st_size, path))
        return sorted(files)

    def _default(self) -> int:
        ours = sum(size for _, size, _ in self._files())
        return min(DEFAULT_BYTES, (shutil.disk_usage(self._folder).free + ours) // _SHARE_OF_FREE)

    def _refuse(self, path: Path, error: OSError | Damaged) -> None:
        self.states.pop(path, None)
        if isinstance(error, Damaged):
            log.warning("%s is deleted: %s", path, error)
            self.drop(path)

    def _give_up(self, error: OSError) -> None:
        self.most = 0
        log.warning("prompts are no longer saved in %s: %s", self._folder, error.strerror)
