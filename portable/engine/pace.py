"""How many prompt tokens a step may read beside running answers; pure: told what steps took."""

from __future__ import annotations

# Tokens: smaller chunks say little about what a token costs, and read a prompt too slowly.
_TELLING = 16
_LEAST = 8
# Before anything is known: 0.1 s on the slowest machine measured.
_UNKNOWN = 32


class Pace:
    """Keeps steps under `bound` seconds; `most` tokens is what a step can take at all."""

    def __init__(self, bound: float, most: int) -> None:
        self._bound = bound
        self._most = most
        self._decode = 0.0  # seconds of a step that reads no prompt
        self._token = 0.0  # seconds that a prompt token adds

    @property
    def budget(self) -> int:
        """Prompt tokens that fit into the next step."""
        wanted = _UNKNOWN
        if self._token:
            wanted = max(_LEAST, int((self._bound - self._decode) / self._token))
        return min(wanted, self._most)

    def learn(self, answering: int, tokens: int, seconds: float) -> None:
        """A step of `answering` sequences and `tokens` prompt tokens took so long."""
        if not tokens:
            self._decode = _mixed(self._decode, seconds)
        elif tokens >= min(_TELLING, self._most):
            rest = seconds - (self._decode if answering else 0)
            self._token = _mixed(self._token, max(rest, 0.0) / tokens)


def _mixed(old: float, new: float) -> float:
    """Half of each: a prompt's tokens cost more the deeper it gets, so old steps tell less."""
    return (old + new) / 2 if old else new
