"""The typer application, and the edge where the error tree becomes a line and an exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from portable import __version__
from portable.errors import PortableError
from portable.flags import spread
from portable.platforms import reader_left

# numpy reads this when it is imported, which is later. A merge multiplies in threads of its own:
# with more of OpenBLAS's under each, it took 11.8 s of CPU time where it takes 6.1 s.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(
    name="portable",
    help="Your own language model on your own machine: convert, chat, serve. Without torch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def arrange(panels: Mapping[str, Sequence[str]]) -> None:
    """Help lists the commands in this order, under these headings. ValueError: one has no place."""
    places = {name: panel for panel, names in panels.items() for name in names}
    order = [*places]
    for command in app.registered_commands:
        name = command.name = str(command.name or getattr(command.callback, "__name__", ""))
        command.rich_help_panel = places.get(name)
    app.registered_commands.sort(key=lambda command: order.index(command.name or ""))


def say(text: str) -> None:
    """One line for the person at the terminal; stdout belongs to the answer."""
    print(text, file=sys.stderr, flush=True)


def edge(command: Callable[..., int]) -> Callable[..., None]:
    """The command line's edge of the error tree: one line on stderr and the exit code."""
    command = spread(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        try:
            code = command(**given)
        except PortableError as error:
            say(f"portable: {error}")
            code = error.exit_code
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            code = _unexpected(error)
        raise typer.Exit(code)

    return run


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and reader_left(error):  # as in `portable chat | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if os.environ.get("PORTABLE_DEBUG"):
        raise error
    say(f"portable: unexpected {type(error).__name__}: {error}")
    say("Please report this, with what PORTABLE_DEBUG=1 shows.")
    return 1


def _version(wanted: bool) -> None:
    if wanted:
        print(f"portable {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before any command."""
