"""`--config FILE`: a command's flags from a TOML file; those on the command line win."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from portable.cli.app import say
from portable.errors import UsageError


def apply(context: typer.Context, path: Path | None) -> Path | None:
    """The callback of `--config`: what the file says becomes the flags' defaults."""
    if path is not None:
        try:
            where, flags = f"--config {path}", context.command.params
            context.default_map = by_parameter(read(path), flags, where)
        except UsageError as error:  # no command is running yet that would tell
            say(f"portable: {error}")
            raise typer.Exit(error.exit_code) from None
    return path


def names_of(parameters: Sequence[Any]) -> dict[str, Any]:
    """The parameters by all that a file may call them: their flags' names, with `-` or `_`."""
    names: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in ("config", "help"):
            flags = [flag.lstrip("-") for flag in parameter.opts]
            names |= {flag.replace("-", "_"): parameter for flag in flags}
    # Of several models the first is the argument, the others are the flag's.
    return names | {p.name: p for p in parameters if p.name == "model"}


def read(path: Path) -> dict[str, Any]:
    """The file's values. Raises UsageError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--config {path} is not valid TOML: {error}") from None


def by_parameter(
    values: Mapping[str, Any], parameters: Sequence[Any], where: str
) -> dict[str, Any]:
    """Values of flags, named as `where` they came from, by parameter.

    Raises UsageError for what is no flag of the command.
    """
    names = names_of(parameters)
    found: dict[str, Any] = {}
    for key, value in values.items():
        parameter = names.get(key.replace("-", "_"))
        if parameter is None or isinstance(value, dict):
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "use the names of the flags"
            raise UsageError(f"{where}: {key!r} is no flag", hint=hint)
        alone = getattr(parameter, "multiple", False) and isinstance(value, str)
        found[parameter.name] = [value] if alone else value
    if isinstance(found.get("model"), list):
        first, *others = found["model"] or [None]
        found |= {"model": first, "also": others}
    return found
