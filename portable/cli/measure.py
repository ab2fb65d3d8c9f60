"""`portable imatrix`: what a model does to a text, written down for the quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from portable.cli.app import app, edge, say
from portable.cli.run import obtained
from portable.errors import UsageError
from portable.flags import Source, complete_model, folder_or_file


@app.command()
@edge
def imatrix(
    model: Annotated[
        str,
        typer.Argument(
            help="What `chat` takes: id, name, folder or .gguf.", autocompletion=complete_model
        ),
    ],
    text: Annotated[Path, typer.Argument(help="Text of the kind that the model is for, UTF-8.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder.")] = None,
    chunks: Annotated[int | None, typer.Option(help="Read at most so many, of 512 tokens.")] = None,
    quant: Annotated[str | None, typer.Option("--quant", "-q", help="Of the model read.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Find out which weights matter to a model, for `convert --imatrix`."""
    from convert.imatrix import write_imatrix
    from convert.writer import check_output
    from portable import measure
    from portable.progress import progress

    read = measure.read_text(text, chunks)
    target = folder_or_file(output, "model.gguf")
    check_output(target, target)  # before a model is downloaded
    found = obtained(Source(model, quant, revision, offline, quiet))
    target = folder_or_file(output, f"{found.id}-imatrix.gguf")
    if target.exists() and any(target.samefile(path) for path in (found.path, text)):
        raise UsageError(f"{target} is what is read", hint="choose another --output")
    check_output(target, found.path)
    with progress(quiet=quiet) as report:
        made = measure.make_imatrix(
            found.path,
            read,
            text.name,
            chunks=chunks,
            progress=lambda done, total: report("imatrix", done, total, ""),
        )
    write_imatrix(made, target)
    if made.unused:
        say(f"note: {made.unused:.1%} of the experts were never chosen: use a longer text")
    say(
        f"{target}: {len(made.entries)} tensors, {made.chunks} chunks of {made.chunk_tokens} tokens"
    )
    return 0
