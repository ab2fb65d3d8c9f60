"""Which model a request means: ids, suffixes and aliases, in any case; pure."""

from __future__ import annotations

import difflib

from portable.errors import ModelNotFound

_LONGEST = 200


class Names:
    """The ids of one served model. The first is the one that is shown."""

    def __init__(self, names: tuple[str, ...], *, any_model: bool = False) -> None:
        self.served = names[0]
        self._known = {known.lower() for name in names for known in (name, name.rsplit("/", 1)[-1])}
        self._any = any_model

    def resolve(self, asked: str | None) -> str:
        """The served id. None and "" mean it; an unknown name raises ModelNotFound."""
        if not asked or self._any or asked.lower() in self._known:
            return self.served
        asked = asked if len(asked) <= _LONGEST else asked[:_LONGEST] + "…"
        near = difflib.get_close_matches(asked.lower(), self._known, n=1)
        meant = f"did you mean {self.served!r}?" if near else f"this server serves {self.served!r}"
        raise ModelNotFound(f"the model {asked!r} does not exist", hint=meant, param="model")
