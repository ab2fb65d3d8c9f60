"""`portable doctor` and `portable devices`."""

from __future__ import annotations

import contextlib
import json
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from portable.cli.app import app, edge, say

if TYPE_CHECKING:
    from portable.doctor import Finding, Report

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}
_INDENT = 20  # columns of status and name


@app.command()
@edge
def doctor(
    as_json: AsJson = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Print the commands that mend what is wrong, run none.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False,
) -> int:
    """Look at this machine: what is wrong with it, and what mends that. A FAIL is exit code 1."""
    from portable.doctor import examine

    report = examine(offline=offline)
    if as_json:
        import msgspec

        print(json.dumps(msgspec.to_builtins(report), indent=2, ensure_ascii=False))
    elif fix:
        print(script(report))
    else:
        with contextlib.suppress(SystemExit):  # by rich, whose reader may have left
            _show(report)
    return 1 if report.failed else 0


def script(report: Report) -> str:
    """What mends the machine, as lines for a shell; what is no command is a comment."""
    lines = []
    for finding in report.findings:
        if finding.status != "OK":
            lines += [f"# {finding.name}: {finding.found}"]
            lines += [f"# {finding.mend}"] if finding.mend else []
            lines += [finding.command] if finding.command else []
    return "\n".join(lines or ["# nothing is wrong"])


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    # rich leaves colours out where nobody looks, by NO_COLOR and by TERM.
    console = Console(highlight=False)
    width = console.width if console.is_terminal else 0
    for finding in report.findings:
        head, *more = lines(finding, width)
        status = (f"{finding.status:5}", _COLOURS[finding.status])
        console.print(Text.assemble(status, head), soft_wrap=True)
        for line in more:
            console.print(Text(line), soft_wrap=True)
    console.print(
        Text(f"\nTo build llama.cpp for this machine ({report.backend}):\n{report.build}"),
        soft_wrap=True,
    )
    if report.wheel:
        console.print(
            Text(f"Or, without a compiler, a prebuilt one:\n{report.wheel}"), soft_wrap=True
        )


def lines(finding: Finding, width: int) -> list[str]:
    """The finding without its status, wrapped to `width` columns if there are some.

    A command stays in one line, so that it can be copied.
    """
    margin = " " * _INDENT
    parts = [(f"{finding.name:14} ", finding.found)]
    if finding.mend:
        parts.append((margin[:-3] + "-> ", finding.mend))
    shown = []
    for before, text in parts:
        room = width - _INDENT if width > 2 * _INDENT else 0
        first, *rest = textwrap.wrap(text, room, break_on_hyphens=False) if room else [text]
        shown += [before + first, *(margin + line for line in rest)]
    return [*shown, *([f"{margin}$ {finding.command}"] if finding.command else [])]


@app.command()
@edge
def devices(
    as_json: AsJson = False,
    rpc: Annotated[
        str | None,
        typer.Option(envvar="PORTABLE_RPC", help="Also machines that run `portable worker`."),
    ] = None,
) -> int:
    """List what layers can lie on, by the names that --device takes; the host is the last one."""
    import msgspec

    from portable.engine import dry_run, libllama
    from portable.engine.rpc.endpoint import endpoints
    from portable.progress import size

    libllama.check()
    found, missing = dry_run.devices(endpoints(rpc or ""))
    for why in missing:
        say(why)
    if as_json:
        print(json.dumps(msgspec.to_builtins(found), indent=2, ensure_ascii=False))
        return 0
    for device in found:
        memory = f"{size(device.free)} of {size(device.total)} free"
        print(f"{device.name:10}  {device.kind:4}  {memory:26}  {device.description}")
    if len(found) == 1:
        say("no GPU is used; portable doctor says why, if there is one")
    return 0
