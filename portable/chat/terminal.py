"""The terminal: line editing by prompt_toolkit, text out; knows no conversation.

Answers go to stdout, everything about the chat to stderr. A dumb terminal gets plain `input()`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from rich.console import Console
from rich.text import Text

from portable.chat.commands import HELP
from portable.chat.talk import Interrupted
from portable.errors import DiskError
from portable.platforms import reader_left

# What a model writes must not move the cursor or set the title: no control characters but these.
_HARMLESS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

# prompt_toolkit moves the cursor over a blank that has no colour; programs that drive the chat wait
# for "<<< " to the letter.
_LITERAL = "fg:ansidefault"


class Terminal:
    """Implements `Screen`. Writes to stdout fail with BrokenPipeError when the reader is gone."""

    def __init__(self) -> None:
        self._read = _plain if _is_dumb() else _editor()

    def read(self, prompt: str) -> str:
        return clean(self._read(prompt))

    def show(self, text: str) -> None:
        write(text)

    def tell(self, line: str) -> None:
        # What is told again of an earlier conversation is a model's, too.
        shown = line.translate(_HARMLESS) if sys.stderr.isatty() else line
        print(shown, file=sys.stderr, flush=True)

    def whisper(self, line: str) -> None:
        whisper(line)


def write(text: str) -> None:
    """A part of an answer to stdout, at once. Raises BrokenPipeError or DiskError."""
    try:
        sys.stdout.write(text.translate(_HARMLESS) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    except OSError as error:
        if reader_left(error):
            raise BrokenPipeError from None
        give_up_stdout()
        raise DiskError(f"cannot write the answer: {error.strerror}") from None


def whisper(line: str) -> None:
    """A line on stderr, dim where that can be shown."""
    if not sys.stderr.isatty() or _is_dumb() or os.environ.get("NO_COLOR"):
        print(line, file=sys.stderr, flush=True)
    else:
        Console(file=sys.stderr).print(Text(line, style="dim"), soft_wrap=True)


def clean(text: str) -> str:
    """Bytes that were no UTF-8 arrive as lone surrogates; the model cannot be given those."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def give_up_stdout() -> None:
    """Nothing can be written any more: let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def _plain(prompt: str) -> str:
    try:
        return input(prompt)
    except (KeyboardInterrupt, EOFError) as error:
        print(file=sys.stderr, flush=True)
        raise Interrupted(typed=False) if isinstance(error, KeyboardInterrupt) else error from None


def _editor() -> Callable[[str], str]:
    session: PromptSession[str] = PromptSession(
        history=_history(),
        key_bindings=_bindings(),
        completer=WordCompleter([f"/{name}" for name in HELP], sentence=True),
        complete_while_typing=False,
        reserve_space_for_menu=0,
        output=_output(),
    )

    def read(prompt: str) -> str:
        try:
            return session.prompt([(_LITERAL, prompt)])
        except KeyboardInterrupt:
            raise Interrupted(typed=bool(session.default_buffer.text)) from None

    return read


def _output() -> Output:
    """The terminal, also when stdout goes to a file."""
    output = create_output(always_prefer_tty=True)
    # Asking for the cursor's position only serves menus below the line; terminals that do not
    # answer get a warning instead.
    output.enable_cpr = False  # type: ignore[attr-defined]
    return output


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _history() -> History:
    """What was typed before, in a file that only the user can read; in memory if there is none."""
    try:
        path = Path(platformdirs.user_state_dir("portable", appauthor=False), "history")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        with path.open("ab"):
            return _Lines(path)
    except (OSError, RuntimeError):
        return InMemoryHistory()


class _Lines(FileHistory):
    """A history file that may stop being readable or writable at any time."""

    def load_history_strings(self) -> Iterable[str]:
        try:
            return super().load_history_strings()
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end; a closed or missing stream has nobody."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False
