"""A report as a table for people and as JSON for programs; computes no figure."""

from __future__ import annotations

import io

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from portable.bench.report import Level, Machine, Report
from portable.bench.restart import Restart
from portable.bench.steps import Steps

_UNKNOWN = "-"
_COLUMNS = (
    "clients",
    "ok",
    "tokens",
    "time s",
    "all\ntok/s",
    "first s\nmedian",
    "\np95",
    "\nworst",
    "each\ntok/s",
    "prompt\ntokens",
    "\ntok/s",
)


def to_json(report: Report | Restart | Steps) -> str:
    """The report's fields as they are, seconds and tokens a second, unknown ones null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def render(report: Report) -> str:
    """Heading, a row for each level, and whatever a reader of the figures must know."""
    lines = [
        f"{report.target}: {report.model}",
        f"{report.prompt} prompts, at most {report.max_tokens} tokens an answer, greedy",
        _machine(report.machine),
        _table(report),
        *_predicted(report),
        *_notes(report),
    ]
    return "\n".join(lines)


def _machine(machine: Machine) -> str:
    physical = f" ({machine.physical_cores} physical)" if machine.physical_cores else ""
    parts = [f"{machine.processor}, {machine.cores} cores{physical}"]
    if machine.placement is not None:
        parts.append(machine.placement)
    parts += [machine.system, f"Python {machine.python}"]
    if machine.load is not None:
        parts.append(f"load before {machine.load:.2f}")
    return ", ".join(parts)


def _table(report: Report) -> str:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for level in report.levels:
        table.add_row(*_row(level))
    # Wide enough for any figure: a terminal may wrap a line, but no digit is cut off.
    console = Console(file=io.StringIO(), width=200, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _row(level: Level) -> list[str]:
    return [
        str(level.clients),
        f"{level.ok}/{level.requests}",
        str(level.tokens),
        f"{level.seconds:.1f}",
        f"{level.throughput:.1f}",
        _figure(level.first_median, 3),
        _figure(level.first_p95, 3),
        _figure(level.first_worst, 3),
        _figure(level.decode_rate, 1),
        _figure(level.prompt_tokens, 0),
        _figure(level.prefill_rate, 0),
    ]


def _figure(value: float | None, digits: int) -> str:
    return _UNKNOWN if value is None else f"{value:.{digits}f}"


def _predicted(report: Report) -> list[str]:
    """What `portable fit` says, and how much more or less that is than was measured."""
    told, alone = report.predicted, report.alone
    if not told or not alone:
        return []
    first = _against(told.first, alone.first_median, "s", 3)
    rate = _against(told.decode_rate, alone.decode_rate, "tok/s", 1)
    return [
        f"predicted for 1 client, {told.prompt_tokens:.0f} prompt tokens: first {first}; {rate}"
    ]


def _against(told: float, measured: float | None, unit: str, digits: int) -> str:
    off = f" ({told / measured - 1:+.0%})" if measured else ""
    return f"{told:.{digits}f} {unit}{off}"


def _notes(report: Report) -> list[str]:
    notes = [_level_notes(level, report.max_tokens) for level in report.levels]
    warm_up = report.warm_up_error
    return [
        *([f"the warm-up request failed: {warm_up}"] if warm_up else []),
        *(note for level in notes for note in level),
    ]


def _level_notes(level: Level, max_tokens: int) -> list[str]:
    at = level.name
    notes = []
    if level.errors:
        notes.append(f"{at}: {level.errors} of {level.requests} failed, the first: {level.error}")
    if level.counted:
        notes.append(
            f"{at}: {level.counted} of {level.ok} answers came without usage: "
            "their tokens are pieces of text"
        )
    if level.ended_early:
        notes.append(
            f"{at}: {level.ended_early} of {level.ok} answers ended before {max_tokens} tokens"
        )
    return notes
