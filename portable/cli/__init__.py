"""The command line: the only place that sees everything. Heavy imports wait for their command."""

from __future__ import annotations

from portable.cli import convert, measure, run
from portable.cli.app import app

__all__ = ["app", "convert", "main", "measure", "run"]


def main() -> None:
    """The `portable` command."""
    app()
