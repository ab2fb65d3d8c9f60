"""How long a model is kept: seconds, or a text such as `10m`, as Ollama's clients write it."""

from __future__ import annotations

import re

from portable.errors import InvalidRequest

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LONGEST = 10 * 365 * 86400.0


def seconds(value: float | str, name: str) -> float | None:
    """`10m`, `1h30m`, a number of seconds; None (for ever) for what is below 0, and `forever`.

    Raises InvalidRequest, with `name` as the field.
    """
    if isinstance(value, str):
        value = _read(value.strip().lower(), name)
    return None if value < 0 else min(float(value), _LONGEST)


def _read(text: str, name: str) -> float:
    if text == "forever" or text.startswith("-"):
        return -1.0
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(
            f"{name}: {text[:40]!r} is no duration", hint="such as 10m, 90 or -1", param=name
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
