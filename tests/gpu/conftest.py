"""The device under test, for all checks of a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from target import WANTED, Target, find
from workers import worker


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    if WANTED != "rpc":
        yield find()
        return
    with worker("--port", "0", "--memory", "2GB") as lent:
        yield find((lent.endpoint,))
