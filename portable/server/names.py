"""Which model a request means: ids, suffixes and aliases, in any case; pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from portable.errors import ModelNotFound

T = TypeVar("T")
_LONGEST = 200


class Names(Generic[T]):
    """Models by their names: of each the first name is shown; the first model is the default.

    A name that two models share means the earlier one.
    """

    def __init__(
        self, models: Iterable[tuple[Sequence[str], T]], *, any_model: bool = False
    ) -> None:
        self._any = any_model
        self._models: list[tuple[str, T]] = []
        self._known: dict[str, tuple[str, T]] = {}
        for names, model in models:
            self._models.append((names[0], model))
            for name in names:
                for known in (name, name.rsplit("/", 1)[-1]):
                    self._known.setdefault(known.lower(), self._models[-1])

    def resolve(self, asked: str | None) -> T:
        """The model that is meant. None and "" mean the default; others raise ModelNotFound."""
        if not asked:
            return self._models[0][1]
        if found := self._known.get(asked.lower()):
            return found[1]
        if self._any:
            return self._models[0][1]
        asked = asked if len(asked) <= _LONGEST else asked[:_LONGEST] + "…"
        raise ModelNotFound(
            f"the model {asked!r} does not exist", hint=self._meant(asked), param="model"
        )

    def _meant(self, asked: str) -> str:
        if near := difflib.get_close_matches(asked.lower(), self._known, n=1):
            return f"did you mean {self._known[near[0]][0]!r}?"
        return f"this server serves {', '.join(repr(shown) for shown, _ in self._models)}"
