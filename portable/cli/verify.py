"""`portable verify`: whether a GGUF file is what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from portable.cli.app import app, edge
from portable.errors import ModelFileError, UsageError


@app.command()
@edge
def verify(
    file: Annotated[Path, typer.Argument(help="A .gguf file.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The folder it was made of: its tokenizer is compared with."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Check a GGUF file: its checksum, values, tokens and template, and that llama.cpp runs it."""
    from portable.obtain.local import gguf_file
    from portable.progress import progress
    from portable.verify import verify as check

    path = gguf_file(file.expanduser())
    if checkpoint and not checkpoint.is_dir():
        raise UsageError(f"no such folder: {checkpoint}", hint="name the checkpoint's folder")
    with progress(quiet=quiet) as report:
        verdict = check(path, checkpoint, report=report)
    print(*verdict.checks, sep="\n")
    return ModelFileError.exit_code if verdict.failed else 0
