"""`--config FILE`: a command's flags from a TOML file; those on the command line win."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import typer

from portable.cli.app import say
from portable.errors import UsageError


def apply(context: typer.Context, path: Path | None) -> Path | None:
    """The callback of `--config`: what the file says becomes the flags' defaults."""
    if path is not None:
        try:
            context.default_map = read(path, names_of(context))
        except UsageError as error:  # no command is running yet that would tell
            say(f"portable: {error}")
            raise typer.Exit(error.exit_code) from None
    return path


def names_of(context: typer.Context) -> dict[str, str]:
    """How a file may call each parameter: its flags' names, with `-` or `_`."""
    names: dict[str, str] = {}
    for parameter in context.command.params:
        if parameter.name not in ("config", "help"):
            flags = [flag.lstrip("-") for flag in parameter.opts]
            names |= {flag.replace("-", "_"): str(parameter.name) for flag in flags}
    # Of several models the first is the argument, the others are the flag's.
    return names | {"model": "model"}


def read(path: Path, names: dict[str, str]) -> dict[str, Any]:
    """The file's values by parameter. Raises UsageError for what is no flag of the command."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--config {path} is not valid TOML: {error}") from None
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(key.replace("-", "_"))
        if name is None or isinstance(value, dict):
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "use the names of the flags"
            raise UsageError(f"--config {path}: {key!r} is no flag", hint=hint)
        found[name] = value
    if isinstance(found.get("model"), list):
        first, *others = found["model"] or [None]
        found |= {"model": first, "also": others}
    return found
