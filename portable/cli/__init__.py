"""The command line: the only place that sees everything. Heavy imports wait for their command."""

from __future__ import annotations

from portable.cli import convert, measure, models, quants, run, serve, verify
from portable.cli.app import app

__all__ = ["app", "convert", "main", "measure", "models", "quants", "run", "serve", "verify"]


def main() -> None:
    """The `portable` command."""
    app()
