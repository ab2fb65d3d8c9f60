"""The models of one server, by name."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence

from portable.errors import ModelNotFound, PortableError
from portable.server.served import Served

_LONGEST = 200


class Fleet:
    """Finds models by their ids, suffixes and aliases, in any case. The first is the default."""

    def __init__(self, models: Sequence[Served], *, any_model: bool = False) -> None:
        self.models = tuple(models)
        self._any = any_model
        self._known: dict[str, Served] = {}
        for served in models:
            for name in served.config.names:
                for known in (name, name.rsplit("/", 1)[-1]):
                    self._known.setdefault(known.lower(), served)

    @property
    def default(self) -> Served:
        return self.models[0]

    def start(self) -> None:
        """Begin to load the default model."""
        self.default.process.start()

    async def stop(self) -> None:
        """End all processes; requests still running end with an error."""
        await asyncio.gather(*(served.process.stop() for served in self.models))

    def fail_all(self, error: PortableError) -> None:
        for served in self.models:
            served.process.fail_all(error)

    def resolve(self, asked: str | None) -> Served:
        """The model that is meant. None and "" mean the first; others raise ModelNotFound."""
        if not asked:
            return self.default
        if found := self._known.get(asked.lower()):
            return found
        if self._any:
            return self.default
        asked = asked if len(asked) <= _LONGEST else asked[:_LONGEST] + "…"
        near = difflib.get_close_matches(asked.lower(), self._known, n=1)
        ids = ", ".join(repr(served.id) for served in self.models)
        meant = (
            f"did you mean {self._known[near[0]].id!r}?" if near else f"this server serves {ids}"
        )
        raise ModelNotFound(f"the model {asked!r} does not exist", hint=meant, param="model")
