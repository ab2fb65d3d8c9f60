"""The command line: the only place that sees everything. Heavy imports wait for their command."""

from __future__ import annotations

from portable.cli import (  # noqa: F401  # each registers its commands
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
from portable.cli.app import app, arrange
from portable.platforms import tolerate_any_text

__all__ = ["app", "main"]

arrange(
    {
        "Run a model": ("chat", "serve", "unload", "service", "worker", "bench"),
        "Choose one and keep it": ("fit", "pull", "list", "show", "rm"),
        "Make a GGUF file": ("convert", "quants", "imatrix", "verify"),
        "This machine": ("doctor", "devices"),
    }
)


def main() -> None:
    """The `portable` command."""
    tolerate_any_text()
    app()
