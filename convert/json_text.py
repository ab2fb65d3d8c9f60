"""JSON from a file that nobody vouches for: parsed in bounded memory, or a ValueError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

# A merge may be a list of two, and the largest vocabularies have half a million. Each list or
# object takes up to 200 bytes in memory, and only two in the file.
MAX_CONTAINERS = 2_000_000

Pairs = Callable[[list[tuple[str, Any]]], Any]


def parse(text: str, pairs: Pairs | None = None) -> Any:
    """The value. `pairs` makes an object of its keys and values, which may be there twice."""
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise ValueError(f"more than {MAX_CONTAINERS} lists and objects")
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
