"""What a check found: a struct that is printed and sent as JSON; knows no check."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["OK", "WARN", "FAIL"]


class Finding(msgspec.Struct, frozen=True):
    """WARN: works, but worse than it could; FAIL: models cannot run until it is mended.

    `mend` says what to do, `command` is a line for the shell that does it, where one does.
    """

    name: str
    status: Status
    found: str
    mend: str = ""
    command: str = ""
