"""Command-line flags that several commands share, as dataclasses; knows no command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.models import OptionInfo

from portable.errors import UsageError
from portable.flags.complete import complete_model as complete_model
from portable.flags.running import Running as Running


@dataclass(frozen=True)
class Source:
    """Which model, and where it may come from."""

    model: Annotated[
        str | None,
        typer.Argument(
            help="ModelScope id, hf://org/name, catalogue name, checkpoint folder or .gguf file.",
            show_default="the first that can be had",
            autocompletion=complete_model,
        ),
    ] = None
    quant: Annotated[
        str | None, typer.Option("--quant", "-q", help="Quantization, e.g. Q4_K_M.")
    ] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. None: the model's own default."""

    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is greedy.")] = None
    top_p: Annotated[float | None, typer.Option("--top-p", "--top_p", min=0, max=1)] = None
    top_k: Annotated[int | None, typer.Option("--top-k", "--top_k", min=-1)] = None
    min_p: Annotated[float | None, typer.Option("--min-p", min=0, max=1)] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option("--repetition-penalty", "--repetition_penalty", min=0.1, max=10),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "--max_new_tokens", min=0, help="Longest answer."),
    ] = None

    @property
    def said(self) -> dict[str, Any]:
        """Only what was given on the command line."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and for whom."""

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int | None, typer.Option(show_default="8000, or the next free one", min=0, max=65535)
    ] = None
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="PORTABLE_API_KEY", help="Repeatable; auto: make one and show it."),
    ] = None
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys, one a line; # begins a comment.")
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without a key.")
    ] = False
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that the server is reached by, behind a proxy. Repeatable."),
    ] = None
    cors: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages that may use it, or *. Repeatable."),
    ] = None
    root_path: Annotated[str, typer.Option(help="Prefix under which a proxy shows it.")] = ""
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate, PEM: serve HTTPS.")] = None
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None
    max_body: Annotated[
        str, typer.Option(help="Largest request: a size such as 64MB; auto: 8 MiB.")
    ] = "auto"


@dataclass(frozen=True)
class Logging:
    """What a server writes to its log."""

    log_format: Annotated[Literal["text", "json"], typer.Option(help="text or json.")] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="The least that is told.")
    ] = "info"
    log_seconds: Annotated[
        float,
        typer.Option("--log-interval", "--log_interval", min=0, help="Statistics; 0: none."),
    ] = 20.0
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Also what people ask: for debugging.")
    ] = False


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take dataclasses: their fields become its flags, as typer reads them."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        n: kind for n, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    flags: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        flags += _fields(groups[name]) if name in groups else [_flag(parameter, hints[name])]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        for name, kind in groups.items():
            names = [field.name for field in dataclasses.fields(kind)]
            given[name] = kind(**{field: given.pop(field) for field in names})
        return command(**given)

    run.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    run.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return run


def _fields(kind: Any) -> list[inspect.Parameter]:
    """Help lists them under the first sentence of the dataclass that has them."""
    hints = get_type_hints(kind, include_extras=True)
    for owner in reversed(kind.__mro__[:-1]):
        heading = inspect.cleandoc(owner.__doc__ or "").partition(".")[0]
        for name in owner.__annotations__:
            for option in getattr(hints[name], "__metadata__", ()):
                if isinstance(option, OptionInfo):
                    option.rich_help_panel = heading
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(kind)
    ]


def _flag(parameter: inspect.Parameter, annotation: Any) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def boolean(flag: str, text: str) -> bool:
    """`true` or `false`, as ms-swift's flags are written."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise UsageError(f"{flag} {text} is neither true nor false")


def size_or_off(flag: str, text: str) -> int | None:
    """Bytes; `off` is 0 and `auto` None."""
    value = text.strip().lower()
    if value in ("auto", "off"):
        return None if value == "auto" else 0
    if found := re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)i?b?", value):
        return int(float(found[1]) * 1000 ** " kmgt".index(found[2] or " "))
    raise UsageError(f"{flag} {text!r} is no size", hint="such as 4GB, 500MB, auto or off")


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """`1,4,8` as numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of numbers", hint="such as 1,4,8") from None


def folder_or_file(output: Path | None, name: str) -> Path:
    """Where a file called `name` goes: the .gguf file that was named, or into the folder."""
    target = output or Path()
    if target.is_dir():
        return target / name
    if target.suffix.lower() != ".gguf":
        raise UsageError(
            f"{target} is neither a folder nor the name of a .gguf file",
            hint="make the folder first, or let the name end in .gguf",
            param="output",
        )
    return target
