"""The rows of a fit as text and as JSON; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from portable.engine.offload.plan import Plan
from portable.fit.fit import Question, Row
from portable.fit.variant import Candidates
from portable.progress import size

_HEAD = (
    "quant", "download", "disk", "file", "weights", "KV", "compute", "memory",
)  # fmt: skip


def lines(
    candidates: Candidates, rows: Sequence[Row], best: Row | None, question: Question
) -> Iterator[str]:
    """A line on the machine, a line a row, and what would be chosen."""
    *_, host = question.devices
    names = list(dict.fromkeys(name for row in rows for name in row.plan.devices))
    yield f"{candidates.model}: {candidates.source}"
    yield (
        f"{size(host.free)} of memory free"
        + "".join(f", {size(d.free)} on {d.name}" for d in question.devices[:-1])
        + f"; {size(candidates.free)} of disk free in {candidates.folder}"
    )
    table = [
        (*_HEAD, *names, "tok/s", "first token", "verdict"),
        *(_cells(row, names) for row in rows),
    ]
    marks = ["", *("*" if row is best else "" for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for mark, cells in zip(marks, table):
        first, *others = cells
        sides = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others[:-1], widths[1:]))]
        yield f"{mark:2}{'  '.join([*sides, others[-1]])}"
    yield from _notes(rows, best, question)


def _cells(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    taken, shares = row.memory, {share.device: share for share in row.plan.shares}
    on = [
        f"{shares[name].layers} layers, {size(shares[name].total)}" if name in shares else "-"
        for name in names
    ]
    return (
        row.variant.quant,
        "here" if row.variant.here else size(row.variant.fetch),
        size(row.variant.disk),
        size(row.variant.size),
        size(taken.weights),
        size(taken.cache),
        size(taken.compute),
        size(taken.total),
        *on,
        "-" if row.rate is None else f"{row.rate:.1f}",
        "-" if row.first_token is None else f"{row.first_token:.1f} s",
        _verdict(row),
    )


def _verdict(row: Row) -> str:
    if row.lacks == "support":
        return "llama.cpp refuses it"
    if row.lacks:
        return f"not enough {row.lacks}"
    needs = ", needs --imatrix" if row.variant.needs_imatrix else ""
    return f"fits with {_context(row.plan)}{needs}"


def _context(plan: Plan) -> str:
    return f"{plan.context} tokens" + (f" in {plan.kv_type}" if plan.kv_type != "f16" else "")


def _where(plan: Plan) -> str:
    """Where the layers would lie, and why, if that is a choice."""
    total = sum(share.layers for share in plan.shares)
    *away, host = plan.shares
    if not away:
        return "all layers on the CPU" + plan.reason.removeprefix("CPU")
    if len(away) == 1 and not host.layers:
        return f"all {total} layers on {away[0].device}: {plan.reason}"
    used = [share for share in plan.shares if share.layers]
    parts = ", ".join(f"{share.layers} on {share.device}" for share in used)
    return f"{total} layers, {parts}: {plan.reason}"


def _notes(rows: Sequence[Row], best: Row | None, question: Question) -> Iterator[str]:
    if best:
        yield f"* {best.variant.quant} would be taken, with {_where(best.plan)}"
    yield (
        f"tok/s after a prompt of {question.prompt} tokens, and the time to read that: predicted, "
        "from this machine's kernels (--measure times them anew)"
    )
    if any(row.rate is None and row.first_token is None for row in rows):
        yield "where layers lie on other devices, speed is not predicted"
    program = max(row.memory.process for row in rows)
    mapped = max(row.memory.mapped for row in rows)
    more = f"; while there is plenty, up to {size(mapped)} more of the file" if mapped else ""
    yield f"memory is the host's, with {size(program)} for the program itself{more}"


def facts(
    candidates: Candidates, rows: Sequence[Row], best: Row | None, question: Question
) -> dict[str, Any]:
    """Sizes in bytes, times in seconds."""
    return {
        "model": candidates.model,
        "source": candidates.source,
        "prompt": question.prompt,
        "disk": {"folder": str(candidates.folder), "free": candidates.free},
        "devices": [
            {"name": d.name, "description": d.description, "kind": d.kind, "free": d.free}
            for d in question.devices
        ],
        "choice": best.variant.quant if best else None,
        "quants": [row_facts(row) for row in rows],
    }


def row_facts(row: Row) -> dict[str, Any]:
    """One row: sizes in bytes, times in seconds."""
    taken, variant = row.memory, row.variant
    return {
        "quant": variant.quant,
        "fits": row.fits,
        "lacks": row.lacks or None,
        "why": row.why or None,
        "needs_imatrix": variant.needs_imatrix,
        "here": variant.here,
        "download": variant.fetch,
        "disk": variant.disk,
        "size": variant.size,
        "context": row.plan.context,
        "kv_type": row.plan.kv_type,
        "weights": taken.weights,
        "cache": taken.cache,
        "compute": taken.compute,
        "process": taken.process,
        "memory": taken.total,
        "resident": taken.resident,
        "devices": [
            {
                "name": share.device,
                "layers": share.layers,
                "weights": share.weights,
                "cache": share.cache,
                "compute": share.compute,
            }
            for share in row.plan.shares
        ],
        "reason": row.plan.reason,
        "tokens_per_second": row.rate,
        "first_token_seconds": row.first_token,
    }
