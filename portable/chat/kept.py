"""The last conversation with a model, in a file that only its user can read; knows no terminal."""

from __future__ import annotations

from pathlib import Path

import msgspec

from portable import store
from portable.chat.session import Conversation
from portable.errors import DiskError, UsageError


class Kept:
    """The file at `path`; None keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> Conversation | None:
        """What was kept, if anything. Raises UsageError and DiskError for what cannot be read."""
        if self._path is None:
            return None
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Conversation)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiskError(f"cannot read {self._path}: {error.strerror}") from None
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"{self._path} is not a conversation: {error}",
                hint="delete it, or start without --continue",
            ) from None

    def save(self, conversation: Conversation) -> None:
        """All of it, or the file as it was; without a turn there is no file. Raises DiskError."""
        if self._path is None:
            return
        if not conversation.turns:
            store.delete([self._path])
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DiskError(f"cannot make {self._path.parent}: {error.strerror}") from None
        text = msgspec.json.format(msgspec.json.encode(conversation)).decode()
        store.write(self._path, text, mode=0o600)
