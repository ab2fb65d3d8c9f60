"""The tools of one request, and which of them the model may or has to call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from portable.dialects.dialect import Tool
from portable.dialects.said import Reader, Said


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Of `tools` only those named in `only` can be called, if that names any.

    With "none" the model is not told of them.
    """

    tools: list[Tool]
    choice: Literal["none", "auto", "required"] = "auto"
    only: frozenset[str] = frozenset()
    several: bool = True

    @property
    def shown(self) -> list[Tool]:
        return [] if self.choice == "none" else self.tools

    @property
    def functions(self) -> dict[str, Any]:
        """The schemas of what can be called, by name."""
        functions = [tool["function"] for tool in self.shown]
        return {
            function["name"]: function.get("parameters") or {}
            for function in functions
            if not self.only or function["name"] in self.only
        }


class FirstCall:
    """A reader that leaves out all calls but the first, for who wants no several at once.

    Only a grammar can keep a model from writing them.
    """

    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    def push(self, text: str) -> Said:
        return self._first(self._inner.push(text))

    def finish(self) -> Said:
        return self._first(self._inner.finish())

    def _first(self, said: Said) -> Said:
        return replace(said, calls=tuple(call for call in said.calls if call.index == 0))
