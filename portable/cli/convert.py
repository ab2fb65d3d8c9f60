"""`portable convert` and `portable quants`: checkpoints into GGUF files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from convert.quants import DEFAULT_QUANT
from portable.cli.app import app, edge, say
from portable.flags import complete_model, folder_or_file


@app.command()
@edge
def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="ModelScope id, hf://org/name, name or folder.", autocompletion=complete_model
        ),
    ],
    quant: Annotated[
        str, typer.Option("--quant", "-q", help="See `portable quants`.")
    ] = DEFAULT_QUANT,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder.")] = None,
    imatrix: Annotated[
        Path | None, typer.Option(help="Importance matrix, as `portable imatrix` makes one.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Turn a checkpoint into a quantized GGUF file."""
    import convert as converter
    from portable.obtain import fetch_checkpoint
    from portable.progress import progress, size

    options = converter.Options(quant=quant, imatrix=imatrix)
    with progress(quiet=quiet) as report:
        source = fetch_checkpoint(
            model, revision=revision, offline=offline, say=say, progress=report
        )
        done = converter.convert(
            source.folder,
            folder_or_file(output, converter.default_output_name(source.name, options.quant)),
            dataclasses.replace(options, name=source.name),
            progress=lambda p: report(p.phase, p.done_bytes, p.total_bytes, p.tensor),
        )
    for warning in done.warnings:
        say(f"note: {warning}")
    say(f"{done.path}: {done.quant}, {size(done.size)}, converted in {done.seconds:.1f} s")
    return 0


@app.command()
@edge
def quants() -> int:
    """List the quantizations that convert knows."""
    import convert as converter

    print("\n".join(converter.quant_names()))
    return 0
