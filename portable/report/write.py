"""Writes a report where it was asked for; what is in it is others' work."""

from __future__ import annotations

import json
from pathlib import Path

from portable.errors import DiskError, UsageError
from portable.report.page import page
from portable.report.summary import Summary

PAGES = (".html", ".htm")


def check(path: Path) -> None:
    """UsageError for a path that no report can be written to, before any work is done."""
    if path.suffix.lower() not in (*PAGES, ".json"):
        raise UsageError(
            f"a report is .html or .json, not {path.name}", hint="name the file so", param="report"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written", hint="name a file in a folder that exists")


def write(summary: Summary, path: Path) -> None:
    """HTML or JSON, as the suffix says. Raises DiskError."""
    if path.suffix.lower() in PAGES:
        text = page(summary)
    else:
        text = json.dumps(summary.as_json(), ensure_ascii=False, indent=1) + "\n"
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DiskError(f"{path} cannot be written: {error.strerror}") from error
