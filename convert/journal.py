"""How far a conversion has come whose checkpoint streams by: what a later run need not do again."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from convert.writer import disk_error, sync_folder


class Journal:
    """`files` are complete, and `pieces` of the next one, up to where its digest was `state`.

    `scales` is the digest of what was fetched from this one ahead of all others.

    Kept beside the output, and true only of the same `plan`: a digest of what decides the bytes.
    It is saved after the bytes that it speaks of are durable, never before.
    """

    def __init__(self, path: Path, plan: str) -> None:
        self.path = path
        self.plan = plan
        self.files = 0
        self.pieces = 0
        self.state: str | None = None
        self.scales = ""

    def load(self) -> bool:
        """Goes on where an earlier run stopped; False when there is none, or of another plan."""
        try:
            checksum, body = self.path.read_text(encoding="ascii").split("\n", 1)
            if checksum != _sha256(body):
                return False
            plan, files, pieces, state, scales = json.loads(body)
        except (OSError, ValueError):
            return False
        if plan == self.plan:
            self.files, self.pieces, self.state, self.scales = files, pieces, state, scales
        return bool(plan == self.plan)

    def save(self, files: int, pieces: int = 0, state: str | None = None, scales: str = "") -> None:
        self.files, self.pieces, self.state, self.scales = files, pieces, state, scales
        body = json.dumps([self.plan, files, pieces, state, scales])
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            with fresh.open("w", encoding="ascii") as stream:
                stream.write(f"{_sha256(body)}\n{body}")
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise disk_error(error, f"{self.path} cannot be written") from error

    def remove(self) -> None:
        """Durably: a journal that came back would speak of bytes that are not there."""
        with suppress(FileNotFoundError):
            self.path.unlink()
            sync_folder(self.path.parent)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
