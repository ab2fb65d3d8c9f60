"""`portable convert` and `portable quants`: checkpoints into GGUF files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convert.quants import DEFAULT_QUANT
from portable.cli.app import app, edge, say
from portable.errors import UsageError
from portable.flags import complete_model, folder_or_file

if TYPE_CHECKING:
    from convert import Converted, Options
    from portable.obtain import Wish


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
        str | None,
        typer.Option("--quant", "-q", help="See `portable quants`.", show_default=DEFAULT_QUANT),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder.")] = None,
    imatrix: Annotated[
        Path | None, typer.Option(help="Importance matrix, as `portable imatrix` makes one.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False,
    adapter_of: Annotated[
        str | None, typer.Option(help="The base of a LoRA adapter whose files do not name it.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge a LoRA adapter into its base.")
    ] = False,
    verify: Annotated[bool, typer.Option(help="Check the file before it takes its place.")] = True,
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep/--stream",
            help="Store the checkpoint, or convert it as it streams.",
            show_default="stored if the disk can hold it",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Turn a checkpoint into a quantized GGUF file, or a LoRA adapter into one for --adapter."""
    import convert as converter
    from portable import hub
    from portable.obtain import Wish
    from portable.obtain.adapter import adapter_folder, base_name
    from portable.progress import progress, size
    from portable.verify import accepting

    adapter = adapter_folder(model)
    if not adapter and (adapter_of or merge):
        raise UsageError(
            f"{model} is no LoRA adapter's folder", hint="--adapter-of and --merge are for one"
        )
    default = converter.ADAPTER_TYPE if adapter and not merge else converter.DEFAULT_QUANT
    options = converter.Options(quant=quant or default, imatrix=imatrix)
    base = adapter_of or base_name(adapter, say) if adapter else model
    offline = offline or hub.offline_by_environment()
    with progress(quiet=quiet) as report:
        if verify and (merge or not adapter):
            accept = accepting(say, report, brief=quiet)
            options = dataclasses.replace(options, accept=accept)
        wish = Wish(options.quant, revision, offline, say, report, keep)
        if adapter and not merge:
            done = _adapter(base, adapter, output, options, wish)
        else:
            done = _model(base, adapter, output, options, wish)
    for warning in done.warnings:
        say(f"note: {warning}")
    say(f"{done.path}: {done.quant}, {size(done.size)}, converted in {done.seconds:.1f} s")
    return 0


def _model(
    model: str, adapter: Path | None, output: Path | None, options: Options, wish: Wish
) -> Converted:
    """A checkpoint, with an adapter merged into it if there is one."""
    import convert as converter
    from portable.obtain import fetch_checkpoint

    source = fetch_checkpoint(model, wish)
    name = f"{source.name}-{adapter.resolve().name}" if adapter else source.name
    return converter.convert(
        source.folder,
        folder_or_file(output, converter.default_output_name(name, options.quant)),
        dataclasses.replace(options, name=name),
        progress=lambda p: wish.report(p.phase, p.done_bytes, p.total_bytes, p.tensor),
        adapter=adapter,
        remote=source.weights,
    )


def _adapter(
    base: str, adapter: Path, output: Path | None, options: Options, wish: Wish
) -> Converted:
    """A GGUF adapter, for which only the base's config.json is needed."""
    import convert as converter
    from portable.obtain.adapter import fetch_config

    name = adapter.resolve().name
    return converter.convert_adapter(
        adapter,
        fetch_config(base, wish),
        folder_or_file(output, converter.default_output_name(f"{name}-LoRA", options.quant)),
        dataclasses.replace(options, name=name),
        progress=lambda p: wish.report(p.phase, p.done_bytes, p.total_bytes, p.tensor),
    )


@app.command()
@edge
def quants() -> int:
    """List the quantizations that convert knows."""
    import convert as converter

    print("\n".join(converter.quant_names()))
    return 0
