"""A checkpoint whose weights an adapter changes while they are read; nothing merged is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from convert.adapter import SETTINGS, Adapter
from convert.arch import FAMILIES, check_config
from convert.arch.table import canonical
from convert.checkpoint import Checkpoint
from convert.remote import Remote
from convert.safetensors_file import Stored
from portable.errors import CheckpointError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Merged(Checkpoint):
    """The base's folder, with the tensors that the trained model would have."""

    def __init__(self, folder: Path, adapter: Adapter, remote: Iterable[Remote] = ()) -> None:
        super().__init__(folder, remote)
        self.adapter = adapter

    def open_tensors(self) -> None:
        """Raises CheckpointError for an adapter of another model."""
        super().open_tensors()
        self.adapter.open_tensors()
        self.files += self.adapter.files
        family = FAMILIES[check_config(self.config)]
        names = {canonical(name, family.RENAMED): name for name in self.tensors}
        full = {canonical(name, family.RENAMED): t for name, t in self.adapter.full.items()}
        updates = {canonical(name, family.RENAMED): u for name, u in self.adapter.updates.items()}
        changed = full.keys() | updates.keys()
        if changed & {EMBEDDING, HEAD}:
            self._untie(names)
        for name in sorted(changed):
            base = self._base(name, names)
            stored = replace(full.get(name, base), name=base.name)
            self._hold(base, stored.shape)
            if name in updates:
                self._hold(base, updates[name].shape)
                stored = replace(stored, change=updates[name])
            self.tensors[base.name] = stored

    def identities(self) -> Iterator[bytes]:
        yield from super().identities()
        yield self.adapter.data(SETTINGS) or b""

    def check_unchanged(self) -> None:
        super().check_unchanged()
        self.adapter.check_unchanged()

    def _untie(self, names: dict[str, str]) -> None:
        """PEFT changes one of two tied matrices and leaves the other as it was."""
        if HEAD not in names and EMBEDDING in names:
            self.tensors[HEAD] = replace(self.tensors[names[EMBEDDING]], name=HEAD)
            names[HEAD] = HEAD

    def _base(self, name: str, names: dict[str, str]) -> Stored:
        if name not in names:
            raise CheckpointError(f"the adapter changes {name}, which the base lacks", hint=WRONG)
        return self.tensors[names[name]]

    def _hold(self, base: Stored, shape: tuple[int, ...]) -> None:
        if base.shape != shape:
            raise mismatch(base.name, shape, base.shape)


WRONG = "name the model that it was trained on with --adapter-of"


def mismatch(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> CheckpointError:
    return CheckpointError(
        f"the adapter is for another model: {name} is {list(wanted)} there, the adapter "
        f"changes {list(found)}",
        hint=WRONG,
    )
