"""Answers kept as JSON lines, in ms-swift's shape; knows nothing of how they came about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from portable.engine.template import Message
from portable.errors import DiskError, UsageError


class Record:
    """Appends to a file; `path` None keeps nothing.

    Raises UsageError when it is made and the file cannot be written, DiskError later.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path.expanduser() if path else None
        if self._path is None:
            return
        if not str(path).isprintable():
            raise UsageError(f"{str(path)!r} is no name for a file")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.open("a", encoding="utf-8").close()
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot write {str(path)!r}: {_reason(error)}") from None

    def append(self, response: str, messages: list[Message], *, stopped: bool = False) -> None:
        if self._path is None:
            return
        line: dict[str, Any] = {"response": response, "messages": messages}
        if stopped:
            line["stopped"] = True
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise DiskError(f"cannot write {self._path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
