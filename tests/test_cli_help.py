"""The order in which help lists commands and flags."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from portable.cli import app


def headings(*arguments: str) -> list[str]:
    shown = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "100"})
    return re.findall(r"╭─ (.+?) ─+╮", shown.output)


def test_commands_stand_under_what_they_are_for() -> None:
    assert headings()[:2] == ["Options", "Run a model"]
    first, *_ = (command.name for command in app.registered_commands)
    assert first == "chat"


def test_flags_stand_under_what_they_are_about() -> None:
    found = headings("chat")
    assert found[:2] == ["Arguments", "Options"]
    assert {"What lies where", "How the model runs", "How tokens are drawn"} < {*found}
