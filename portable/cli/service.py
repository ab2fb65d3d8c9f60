"""`portable service`: a systemd unit that runs the server whenever its user's session does."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from portable.cli.app import app, edge, say

_UNIT = """\
[Unit]
Description=portable: a language model on this machine

[Service]
{environment}ExecStart={command}
WorkingDirectory=%h
Restart=on-failure
RestartSec=2
# Answers come to their end first.
TimeoutStopSec=20
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
@edge
def service(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What `portable serve` is to get.", metavar="...")
    ] = None,
) -> int:
    """Print a systemd unit that runs `portable serve ...`."""
    print(unit(arguments or []), end="")
    say("Save it as ~/.config/systemd/user/portable.service, then:")
    say("systemctl --user daemon-reload && systemctl --user enable --now portable")
    return 0


def unit(arguments: list[str]) -> str:
    """The unit's text; runs this very installation."""
    command = [sys.executable, "-m", "portable.cli", "serve", *map(_absolute, arguments)]
    home = os.environ.get("PORTABLE_HOME")
    environment = f"Environment={quoted(f'PORTABLE_HOME={home}')}\n" if home else ""
    return _UNIT.format(command=" ".join(map(quoted, command)), environment=environment)


def _absolute(argument: str) -> str:
    """Files are found from the service's folder, which is another one."""
    path = Path(argument)
    return str(path.absolute()) if not argument.startswith("-") and path.exists() else argument


def quoted(word: str) -> str:
    """One word of a command, as systemd reads it: `%`, `$`, quotes and backslashes stay."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if shlex.quote(word) != word else word
