"""Input lines -> actions: ms-swift's words and modes, and slash commands. Pure; prints nothing.

The words are those of `swift infer`, with the same order of checks: `exit` and `quit` first, then a
system prompt that is being entered, then `clear`, an empty line, `reset-system` and the two modes.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

END = "#"
DEFAULT_SYSTEM = "default-system"
TOOL = "tool:"

_SLASH = re.compile(r"/([A-Za-z?][\w-]*)(?:\s+(.*))?", re.DOTALL)
_BARE = ("clear", "reset-system", "multi-line", "single-line")

HELP = {
    "help": "this list",
    "exit": "leave (also Ctrl-D)",
    "clear": "forget the conversation, keep the system prompt",
    "system": "TEXT: set the system prompt and forget the conversation",
    "reset-system": f"ask for a system prompt; `{DEFAULT_SYSTEM}` is the model's own",
    "multi-line": "messages of several lines; a line ending in # sends them",
    "single-line": "one line a message",
    "retry": "answer the last message again",
    "undo": "take back the last message and its answer",
    "stats": "what runs where; on|off: the line of figures after an answer",
}
_ALIASES = {"quit": "exit", "bye": "exit", "?": "help", "h": "help"}


@dataclass(frozen=True, slots=True)
class Send:
    """A message for the model."""

    text: str
    role: str = "user"


@dataclass(frozen=True, slots=True)
class Leave:
    pass


@dataclass(frozen=True, slots=True)
class Where:
    """What runs where, to be told."""


@dataclass(frozen=True, slots=True)
class Clear:
    pass


@dataclass(frozen=True, slots=True)
class SetSystem:
    """A new system prompt, which also clears the history; None is the template's default."""

    text: str | None
    told: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    pass


@dataclass(frozen=True, slots=True)
class Undo:
    pass


@dataclass(frozen=True, slots=True)
class Stats:
    on: bool


@dataclass(frozen=True, slots=True)
class Tell:
    """Lines for the user."""

    lines: tuple[str, ...]


Action = Send | Leave | Clear | SetSystem | Retry | Undo | Stats | Tell | Where


@dataclass(slots=True)
class Reader:
    """Which mode the input is in, and the lines of an unfinished message."""

    bare_commands: bool = True
    multi_line: bool = False
    entering_system: bool = False
    _lines: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        """What to print before the next line; nothing while a message goes on."""
        if self._lines:
            return ""
        modes = "M" * self.multi_line + "S" * self.entering_system
        return f"<<<[{modes}] " if modes else "<<< "

    @property
    def unfinished(self) -> bool:
        return bool(self._lines)

    def drop(self) -> None:
        """Forget the lines of an unfinished message."""
        self._lines.clear()

    def feed(self, line: str) -> Action | None:
        """One line of input; None when there is nothing to do but to ask for the next one."""
        if not self.multi_line:
            return self._decide(line)
        if not line.endswith(END):
            self._lines.append(line)
            return None
        text = "\n".join([*self._lines, line.removesuffix(END)])
        self._lines.clear()
        return self._decide(text)

    def _decide(self, text: str) -> Action | None:
        word = text.strip().lower()
        if self.bare_commands and word in ("exit", "quit"):
            return Leave()
        if self.entering_system:
            self.entering_system = False
            return SetSystem(_system(text))
        if not word:
            return None
        if self.bare_commands and word in _BARE:
            return self._word(word)
        if found := _slash_command(text):
            return self._slash(*found)
        if text.startswith(TOOL):
            return Send(text.removeprefix(TOOL), "tool")
        return Send(text)

    def _word(self, word: str) -> Action | None:
        """A command without an argument that has the same name with and without a slash."""
        if word == "clear":
            return Clear()
        if word == "reset-system":
            self.entering_system = True
        elif word == "single-line":
            self.multi_line = False
        else:
            self.multi_line = True
            return Tell(
                (
                    "End multi-line input with `#`.",
                    "Input `single-line` to switch to single-line input mode.",
                )
            )
        return None

    def _slash(self, name: str, rest: str) -> Action | None:
        name = _ALIASES.get(name, name)
        if name not in HELP:
            return Tell((_unknown(name),))
        if name in ("system", "stats"):
            return _setting(name, rest)
        if rest:
            return Tell((f"/{name} takes nothing after it.",))
        if name in _BARE:
            return self._word(name)
        return _PLAIN[name]


def help_lines() -> tuple[str, ...]:
    """What `/help` says."""
    commands = tuple(f"/{name:<13} {text}" for name, text in HELP.items())
    return (
        *commands,
        "Ctrl-C stops an answer; Alt-Enter starts a new line; Ctrl-R searches what you typed.",
        "A message that begins with / : put a space before it. With `tool:` it is a tool's result.",
    )


_PLAIN: dict[str, Action] = {
    "help": Tell(help_lines()),
    "exit": Leave(),
    "retry": Retry(),
    "undo": Undo(),
}


def _slash_command(text: str) -> tuple[str, str] | None:
    """Name and the rest of it. Of several lines only a system prompt is one; no path is."""
    found = _SLASH.fullmatch(text.rstrip())
    if not found or ("\n" in text.strip() and found[1].lower() != "system"):
        return None
    return found[1].lower(), (found[2] or "").strip()


def _setting(name: str, rest: str) -> Action:
    if name == "system":
        if rest:
            return SetSystem(_system(rest), told=True)
        return Tell(("/system needs the text; `reset-system` asks for it, and may be empty.",))
    if not rest:
        return Where()
    if rest.lower() in ("on", "off"):
        return Stats(rest.lower() == "on")
    return Tell(("/stats alone, /stats on or /stats off",))


def _system(text: str) -> str | None:
    return None if text == DEFAULT_SYSTEM else text


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [*HELP, *_ALIASES], 1)
    guess = f" Did you mean /{near[0]}?" if near else ""
    return f"Unknown command '/{name}'.{guess} Type /help."
