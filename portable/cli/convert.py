"""`portable convert`: checkpoints into GGUF files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convert.quants import DEFAULT_QUANT
from portable.cli.app import app, edge, say
from portable.cli.quants import chosen, is_auto
from portable.errors import UsageError
from portable.flags import complete_model, folder_or_file

if TYPE_CHECKING:
    from convert import Converted, Options
    from portable.cli.evaluate import Evaluator
    from portable.obtain import Wish
    from portable.progress import Report


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
        typer.Option(
            "--quant", "-q", help="See `portable quants`; or auto.", show_default=DEFAULT_QUANT
        ),
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
    evaluate: Annotated[
        Path | None,
        typer.Option(help="Text: perplexity on it, and KL divergence from the BF16 model."),
    ] = None,
    evaluate_chunks: Annotated[
        int, typer.Option(help="Read at most so many chunks of 512 tokens of it.")
    ] = 32,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", help="What quantization did to each tensor: .html or .json."),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Check the file before it takes its place.")] = True,
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep/--stream",
            help="Store the checkpoint, or convert it as it streams.",
            show_default="stored if the disk can hold it",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made; fetch no weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the dry run as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Turn a checkpoint into a quantized GGUF file, or a LoRA adapter into one for --adapter."""
    from portable import hub
    from portable import report as reports
    from portable.obtain import Wish, quant_of
    from portable.obtain.adapter import adapter_folder, base_name
    from portable.progress import progress

    adapter = adapter_folder(model)
    if not adapter and (adapter_of or merge):
        raise UsageError(
            f"{model} is no LoRA adapter's folder", hint="--adapter-of and --merge are for one"
        )
    if adapter and not merge and (evaluate or report_file or dry_run):
        raise UsageError(
            "an adapter alone is no model: no --evaluate, --report or --dry-run", hint="--merge"
        )
    if as_json and not dry_run:
        raise UsageError("--json is for a dry run", hint="add --dry-run")
    if dry_run and (evaluate or report_file):
        raise UsageError(
            "a dry run makes nothing: no --evaluate or --report", hint="leave --dry-run out"
        )
    if report_file:
        reports.check(report_file)
    _check_files(output, imatrix)
    base = adapter_of or base_name(adapter, say) if adapter else model
    quant = quant_of(base) or quant
    options = _options(quant, imatrix, bool(report_file), whole=merge or not adapter)
    offline = offline or hub.offline_by_environment()
    with progress(quiet=quiet) as report:
        if verify and (merge or not adapter):
            from portable.verify import accepting  # loads the runtime

            accept = accepting(say, report, brief=quiet)
            options = dataclasses.replace(options, accept=accept)
        wish = Wish(options.quant, revision, offline, say, report, keep, dry_run, imatrix)
        if is_auto(quant):
            found = chosen(base, adapter, wish)
            options = dataclasses.replace(options, quant=found)
            wish = dataclasses.replace(wish, quant=found)
        if dry_run:
            return _dry_run(base, adapter if merge else None, output, options, wish, as_json)
        if adapter and not merge:
            done = _adapter(base, adapter, output, options, wish)
        else:
            evaluator = _evaluator(evaluate, evaluate_chunks, report)
            done = _model(base, adapter, output, options, wish, evaluator)
    _tell(done, report_file)
    return 0


def _check_files(output: Path | None, imatrix: Path | None) -> None:
    """What is wrong with the files that were named is said before anything is downloaded."""
    from convert.imatrix import read_imatrix
    from convert.writer import check_output

    target = folder_or_file(output, "model.gguf")
    check_output(target, target)
    if imatrix:
        read_imatrix(imatrix)
        if target.exists() and target.samefile(imatrix):
            raise UsageError(f"{target} is what is read", hint="choose another --output")


def _tell(done: Converted, report_file: Path | None) -> None:
    """What came of it, in lines and in the report."""
    from portable import report as reports
    from portable.progress import size

    for warning in done.warnings:
        say(f"note: {warning}")
    say(f"{done.path}: {done.quant}, {size(done.size)}, converted in {done.seconds:.1f} s")
    for line in done.evaluation.lines if done.evaluation else ():
        say(line)
    if report_file:
        reports.write(reports.Summary(done), report_file)
        say(f"{report_file}: the report")


def _dry_run(
    model: str,
    adapter: Path | None,
    output: Path | None,
    options: Options,
    wish: Wish,
    as_json: bool,
) -> int:
    import convert as converter
    from portable.cli.preview import facts, show
    from portable.obtain import fetch_checkpoint

    source = fetch_checkpoint(model, wish)
    name = f"{source.name}-{adapter.resolve().name}" if adapter else source.name
    target = folder_or_file(output, converter.default_output_name(name, options.quant))
    options = dataclasses.replace(options, name=name)
    found = converter.preview(source.folder, options, adapter=adapter, remote=source.weights)
    show(facts(found, source, target, options.quant, wish.keep), as_json=as_json)
    return 0


def _options(quant: str | None, imatrix: Path | None, measure: bool, *, whole: bool) -> Options:
    """`whole`: a model and no adapter. With `auto` it has the default until one is chosen."""
    import convert as converter

    if is_auto(quant):
        if imatrix or not whole:
            raise UsageError("--quant auto is for whole models without --imatrix", param="quant")
        quant = None
    default = converter.DEFAULT_QUANT if whole else converter.ADAPTER_TYPE
    return converter.Options(quant=quant or default, imatrix=imatrix, measure=measure)


def _evaluator(text: Path | None, chunks: int, report: Report) -> Evaluator | None:
    """What measures the result, if there is a text: only then the runtime is loaded."""
    if not text:
        return None
    from portable.cli.evaluate import Evaluator

    return Evaluator(text, chunks, report)


def _model(
    model: str,
    adapter: Path | None,
    output: Path | None,
    options: Options,
    wish: Wish,
    evaluator: Evaluator | None,
) -> Converted:
    """A checkpoint, with an adapter merged into it if there is one."""
    import convert as converter
    from portable.obtain import fetch_checkpoint

    def make(path: Path, options: Options) -> Converted:
        kind = "" if options.quant == wish.quant else f" {options.quant}"
        return converter.convert(
            source.folder,
            path,
            options,
            progress=lambda p: wish.report(p.phase + kind, p.done_bytes, p.total_bytes, p.tensor),
            adapter=adapter,
            remote=source.weights,
        )

    def sizes() -> dict[str, int]:
        found = converter.preview(source.folder, options, adapter=adapter, remote=source.weights)
        return {each.quant: each.size for each in found.sizes}

    source = fetch_checkpoint(model, wish)
    name = f"{source.name}-{adapter.resolve().name}" if adapter else source.name
    target = folder_or_file(output, converter.default_output_name(name, options.quant))
    options = dataclasses.replace(options, name=name)
    return evaluator.convert(make, sizes, target, options) if evaluator else make(target, options)


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
