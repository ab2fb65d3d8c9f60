"""The command line: the only place that sees everything. Heavy imports wait for their command."""

from __future__ import annotations

from portable.cli import (
    convert,
    doctor,
    fit,
    measure,
    models,
    quants,
    run,
    serve,
    service,
    unload,
    verify,
    worker,
)
from portable.cli.app import app
from portable.platforms import tolerate_any_text

_COMMANDS = (
    convert,
    doctor,
    fit,
    measure,
    models,
    quants,
    run,
    serve,
    service,
    unload,
    verify,
    worker,
)
__all__ = ["app", "main"]


def main() -> None:
    """The `portable` command."""
    tolerate_any_text()
    app()
