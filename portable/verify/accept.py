"""Verification as the last step of a conversion, before the file takes its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from portable.progress import Report
from portable.verify.check import Verdict
from portable.verify.run import verify

# Larger ones are loaded all the same, as far as that goes without reading their weights.
GENERATE_UP_TO = 512 << 20


def accepting(
    say: Callable[[str], None], report: Report, *, brief: bool = False
) -> Callable[[Path, Path], None]:
    """For `convert`: raises ModelFileError for a file that fails a check, and says what was found.

    `brief` says only what was not found to be right, and in one line what was.
    """

    def accept(path: Path, checkpoint: Path) -> None:
        verdict = verify(path, checkpoint, generate_up_to=GENERATE_UP_TO, report=report)
        for line in _brief(verdict) if brief else map(str, verdict.checks):
            say(line)
        verdict.raise_failed("portable convert --no-verify makes it all the same; please report it")

    return accept


def _brief(verdict: Verdict) -> list[str]:
    passed = ", ".join(check.name for check in verdict.checks if check.status == "PASS")
    notes = [str(check) for check in verdict.checks if check.status == "NOTE"]
    return [f"verified: {passed}", *notes]
