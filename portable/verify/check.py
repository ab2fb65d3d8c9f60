"""What was looked at, and what came of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from portable.errors import ModelFileError

Status = Literal["PASS", "NOTE", "FAIL", "SKIP"]


@dataclass(frozen=True)
class Check:
    """NOTE is worth knowing and no reason to refuse the file; SKIP was not looked at."""

    name: str
    status: Status
    detail: str

    def __str__(self) -> str:
        return f"{self.status} {self.name}: {self.detail}"


@dataclass(frozen=True)
class Verdict:
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == "FAIL"]

    def raise_failed(self, hint: str) -> None:
        """ModelFileError with what failed, if anything did."""
        if self.failed:
            what = "; ".join(f"{check.name}: {check.detail}" for check in self.failed)
            raise ModelFileError(f"the file did not pass its checks: {what}", hint=hint)
