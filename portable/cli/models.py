"""`portable pull`, `list`, `show` and `rm`: the models on this disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portable.cli.app import app, edge, say
from portable.errors import ModelFileError, PortableError, UsageError
from portable.flags import complete_model

if TYPE_CHECKING:
    from portable.obtain import Wish
    from portable.obtain.files import Selection
    from portable.shelf import Item, Partial

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
@edge
def pull(
    model: Annotated[
        str, typer.Argument(help="Hub id, catalogue name or folder.", autocompletion=complete_model)
    ],
    files: Annotated[
        list[str] | None, typer.Argument(help="Files of the repository; none: the model, to run.")
    ] = None,
    local_dir: Annotated[
        Path | None, typer.Option("--local-dir", "--local_dir", help="Put plain files here.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Pattern of files. Repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of files. Repeatable.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")
    ] = False,
    quant: Annotated[str | None, typer.Option("--quant", "-q", help="E.g. Q4_K_M.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch what disk or memory looks too small for, too.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress and the result as JSON lines.")
    ] = False,
) -> int:
    """Fetch a model into the store, or files of a repository into a folder."""
    import convert as converter
    from portable.hub import offline_by_environment
    from portable.obtain import Wish, ready
    from portable.obtain.files import Wanted, at_hand, select
    from portable.progress import progress

    wanted = Wanted(files or (), include or (), exclude or (), local_dir)
    quant = converter.quant_name(quant) if quant else None
    with progress(quiet=quiet, as_json=as_json) as report:
        wish = Wish(quant, revision, offline_by_environment(), say, report, force=force)
        if wanted.is_model and not dry_run:
            return _print_paths([ready(model, wish).path], as_json)
        if wanted.is_model and (here := at_hand(model, wish)):
            say("it is on this disk: there is nothing to fetch")
            return _print_paths([here], as_json)
        selection = select(model, wanted, wish)
        if not dry_run:
            return _print_paths(selection.fetch(wish), as_json)
    verdict = _verdict(model, wish) if wanted.is_model else {}
    if as_json:
        _print_json(selection.facts() | verdict)
    else:
        print(_preview(selection))
        if verdict:
            print(_judged(verdict["fit"]))
        if selection.is_checkpoint:
            say(f"what becomes of it: portable convert {model} --dry-run")
    selection.source.check_space(selection.listing, selection.files)
    return 0


def _print_paths(paths: list[Path], as_json: bool) -> int:
    for path in paths:
        print(json.dumps({"path": str(path)}, ensure_ascii=False) if as_json else path)
    return 0


def _preview(selection: Selection) -> str:
    """Each file and its size, what has still to come, and the room that there is."""
    from portable.progress import size

    listing, files = selection.listing, selection.files
    rows = [(size(f.size), f.path, _state(selection.missing(f), f.size)) for f in files]
    there, free = selection.source.room(listing)
    missing = sum(map(selection.missing, files))
    commit = f" at {listing.commit[:12]}" if listing.commit else ""
    return "\n".join(
        [
            f"{listing.repo}{commit} from {selection.found.where}",
            *_table(rows),
            f"{size(missing)} of {size(sum(f.size for f in files))} to fetch; "
            f"{size(free)} free in {there}",
        ]
    )


def _verdict(model: str, wish: Wish) -> dict[str, Any]:
    """Whether what would be fetched fits this machine, or what else of it would; bytes."""
    from portable.fit.fit import choose, planned, usual
    from portable.obtain.look import look

    try:
        candidates = look(model, replace(wish, say=lambda _: None))
        cases = planned(candidates, usual())
    except PortableError as error:  # the files can be had all the same
        return {"fit": {"quant": None, "fits": None, "reason": error.message}}
    best = choose(cases, candidates.default)
    shown = best or min(cases, key=lambda case: case.variant.size)
    return {
        "fit": {
            "quant": shown.variant.quant,
            "fits": shown.fits,
            "context": shown.plan.context,
            "memory": sum(share.total for share in shown.plan.shares),
            "reason": shown.why or shown.plan.reason,
        }
    }


def _judged(fit: dict[str, Any]) -> str:
    from portable.progress import size

    if fit["fits"] is None:
        return f"whether it fits this machine is not known: {fit['reason']}"
    fits = f"fits with {fit['context']} tokens" if fit["fits"] else "does not fit"
    return f"{fit['quant']} {fits}: {size(fit['memory'])} of memory; {fit['reason']}"


def _state(missing: int, whole: int) -> str:
    from portable.progress import size

    return "" if missing == whole else "is here" if not missing else f"{size(missing)} to come"


@app.command("list")
@edge
def list_models(
    everywhere: Annotated[
        bool, typer.Option("--all", help="Also what other programs hold: Ollama, LM Studio …")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """List the models on this disk."""
    from portable import shelf
    from portable.progress import size

    found = [item.facts() for item in shelf.items(everywhere=everywhere)]
    partials = shelf.partials()
    if as_json:
        left = [{"path": str(p.path), "size": p.size} for p in partials]
        _print_json({"models": found, "partial": left})
        return 0
    for line in _table([_row(facts) for facts in found]):
        _print(line)
    total = size(sum(facts.get("size", 0) for facts in found))
    say(f"models: {len(found)}, {total}" if found else "nothing here yet: portable pull MODEL")
    if partials:
        left_over = size(sum(p.size for p in partials))
        say(f"{left_over} of broken-off work, to go on from or: portable rm --partial")
    return 0


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    from portable.progress import size

    if "error" in facts:
        return facts["model"], facts["source"], facts["error"]
    return (
        facts["model"],
        facts["source"],
        facts["quant"] or "?",
        size(facts["size"]),
        _millions(facts["parameters"]),
        f"{facts['context'] or '?'} tokens",
        facts["architecture"] or "?",
    )


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.3g}M" if parameters < 1e9 else f"{parameters / 1e9:.3g}B"


@app.command()
@edge
def show(
    model: Annotated[
        str, typer.Argument(help="A model of `portable list`.", autocompletion=complete_model)
    ],
    as_json: AsJson = False,
) -> int:
    """Show what is known about a model on this disk."""
    from portable import shelf

    facts = shelf.describe(model)
    code = ModelFileError.exit_code if "error" in facts else 0
    if as_json:
        _print_json(facts)
        return code
    template = facts.get("template")
    if template:
        facts["template"] = ", ".join(name for name, has in template.items() if has) or "plain"
    for line in _table([(f"{k}:", str(v)) for k, v in facts.items() if v not in (None, {})]):
        _print(line)
    return code


@app.command()
@edge
def rm(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Models of `portable list`.", autocompletion=complete_model),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="What broken-off downloads and conversions left.")
    ] = False,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="What was said to models: prompts, conversations.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Delete models from the store; other programs' files stay."""
    from portable import shelf

    if not (models or partial or prompts):
        raise UsageError(
            "name the models to delete, or give --partial or --prompts", hint="see: portable list"
        )
    chosen: dict[Path, Item | Partial] = {
        item.path: item for name in models or () for item in shelf.matching(name)
    }
    chosen |= {left.path: left for left in (shelf.partials() if partial else [])}
    chosen |= {file.path: file for file in (shelf.said() if prompts else [])}
    if not yes and not _agreed(list(chosen)):
        say("nothing is deleted")
        return 1
    folders = sorted({str(found) for thing in chosen.values() if (found := thing.checkpoint())})
    removed = [str(path) for thing in chosen.values() for path in thing.remove()]
    kept = [str(path) for path in chosen if path.exists()]
    if as_json:
        _print_json({"removed": removed, "kept": kept})
    for path in removed:
        say(f"deleted {path}")
    for path in kept:
        say(f"{path} stays: it was there before it was pulled")
    for folder in folders:
        say(f"the checkpoint that was converted stays in {folder}")
    return 0


def _agreed(paths: list[Path]) -> bool:
    if not paths:
        return True
    if not sys.stdin.isatty():
        raise UsageError("rm asks before it deletes, and there is no terminal", hint="give --yes")
    for path in paths:
        say(str(path))
    print(f"Delete {len(paths)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns side by side; Chinese characters are two wide."""
    from rich.cells import cell_len

    widths: dict[int, int] = {}
    for row in rows:
        for i, text in enumerate(row[:-1]):
            widths[i] = max(widths.get(i, 0), cell_len(text))
    return [
        "  ".join(text + " " * (widths.get(i, 0) - cell_len(text)) for i, text in enumerate(row))
        for row in rows
    ]


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2, ensure_ascii=False))


def _print(text: str) -> None:
    """A file's name may hold bytes that are no text."""
    print(text.encode("utf-8", "replace").decode("utf-8"))
