"""`portable fit`: what of a model this machine can hold, and how fast, before it is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from portable.cli.app import app, edge, say
from portable.cli.run import check_workers, engine
from portable.errors import (
    DiskError,
    NotEnoughMemory,
    PortableError,
    UnsupportedModel,
    UsageError,
)
from portable.flags import Running, Source

if TYPE_CHECKING:
    from portable.fit.fit import Question, Row
    from portable.fit.variant import Candidates


@app.command()
@edge
def fit(
    source: Source,
    running: Running,
    prompt: Annotated[
        int, typer.Option(min=1, help="Tokens of the prompt that speeds are told for.")
    ] = 512,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine anew, and keep that.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say what fits this machine, where it would lie and how fast it would be; fetch no weights."""
    from portable.fit.fit import choose, rows
    from portable.fit.table import facts, lines

    candidates = looked_up(source)
    question = asked(source, running, prompt=prompt, again=measure)
    found = rows(candidates, question, say)
    best = choose(found, candidates.default)
    if as_json:
        said = facts(candidates, found, best, question)
        print(json.dumps(said, ensure_ascii=False, indent=2))
    else:
        print("\n".join(lines(candidates, found, best, question)))
    if not best:
        raise nothing(candidates, found)
    return 0


def looked_up(source: Source) -> Candidates:
    """All that the model's name can mean."""
    import convert as converter
    from portable import catalogue
    from portable.obtain import Wish
    from portable.obtain.look import look
    from portable.progress import silent

    quant = converter.quant_name(source.quant) if source.quant else None
    wish = Wish(quant, source.revision, source.offline, say, silent, dry_run=True)
    return look(source.model or catalogue.DEFAULT, wish)


def asked(source: Source, running: Running, *, prompt: int, again: bool = False) -> Question:
    """How these flags would run a model, alone as `portable chat` does."""
    from portable.engine.dry_run import devices
    from portable.engine.offload.wish import wish_of
    from portable.fit.fit import Question
    from portable.obtain import Model

    if running.draft:
        raise UsageError("fit looks at one model", hint="leave --draft out", param="draft")
    model = Model(Path(source.model or "model"), "")
    check_workers(running)
    config = engine(model, source, running, slots=1)
    extra = config.adapter.stat().st_size if config.adapter and config.adapter.is_file() else 0
    here, missing = devices(config.rpc)
    for why in missing:
        say(why)
    return Question(
        wish_of(config, extra),
        here,
        config.rpc,
        prompt,
        config.threads,
        config.load_mode not in ("none", "dio"),
        again,
    )


def nothing(candidates: Candidates, found: Sequence[Row]) -> PortableError:
    """Why not even the smallest can be had."""
    least = min(found, key=lambda row: row.variant.size)
    if least.fits:
        return UsageError(
            f"what fits of {candidates.model} needs an importance matrix",
            hint="portable imatrix MODEL TEXT makes one, for convert --imatrix",
        )
    if least.lacks == "support":
        return UnsupportedModel(
            f"llama.cpp refuses {candidates.model}: {least.why}", hint="choose another model"
        )
    kind = NotEnoughMemory if least.lacks == "memory" else DiskError
    return kind(
        f"nothing of {candidates.model} fits: {least.why}",
        hint="try a smaller --context, or a smaller model",
    )
