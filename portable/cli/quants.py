"""`portable quants`, and what `convert --quant auto` chooses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from portable.cli.app import app, edge, say
from portable.errors import UsageError
from portable.flags import complete_model

if TYPE_CHECKING:
    from portable.auto import Choice
    from portable.obtain import Wish


def is_auto(quant: str | None) -> bool:
    return quant is not None and quant.strip().lower() == "auto"


def chosen(model: str, adapter: Path | None, wish: Wish) -> str:
    """What `--quant auto` takes for a model on this machine; the reason is said."""
    choice = choose(model, adapter, wish)
    say(f"--quant auto takes {choice.reason}")
    return choice.best.candidate.quant


@app.command()
@edge
def quants(
    model: Annotated[
        str | None,
        typer.Argument(help="A checkpoint, for --measure.", autocompletion=complete_model),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Size, error and speed of this model's, here.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """List the quantizations that convert knows, or measure what they make of a model."""
    import convert as converter
    from portable import hub
    from portable.obtain import Wish
    from portable.progress import progress

    if bool(model) != measure:
        raise UsageError(
            "a model and --measure belong together", hint="portable quants MODEL --measure"
        )
    if not model:
        print("\n".join(converter.quant_names()))
        return 0
    offline = offline or hub.offline_by_environment()
    with progress(quiet=quiet) as report:
        choice = choose(model, None, Wish(None, revision, offline, say, report))
    print("\n".join(table(choice)))
    return 0


def choose(model: str, adapter: Path | None, wish: Wish) -> Choice:
    """Surveys a checkpoint, downloaded if need be, and times this machine's kernels."""
    import convert as converter
    from convert.survey import survey
    from portable import auto
    from portable.obtain import fetch_checkpoint

    source = fetch_checkpoint(model, wish)
    options = converter.Options(name=source.name)
    candidates = survey(source.folder, options, adapter=adapter, remote=source.weights)
    return auto.choose(candidates, auto.time_kernels(candidates))


def table(choice: Choice) -> Iterator[str]:
    """One line a quantization, then what would be chosen, and why."""
    from portable.progress import size

    yield f"{'quant':8} {'size':>10} {'error':>9} {'tok/s':>8}"
    for row in choice.ranked:
        made = row.candidate
        mark = " <- auto" if row is choice.best else ("" if row.good else " worse")
        yield (
            f"{made.quant:8} {size(made.size):>10} {100 * made.error:7.2f} % {row.rate:8.1f}{mark}"
        )
    yield f"auto takes {choice.reason}"
