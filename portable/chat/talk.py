"""A conversation: lines in, actions done, answers out; knows no terminal and no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from portable.chat.ask import Answer, Ask, ask_within, figures
from portable.chat.commands import (
    Action,
    Clear,
    Leave,
    Reader,
    Retry,
    Send,
    SetSystem,
    Stats,
    Tell,
    Undo,
    Where,
)
from portable.chat.kept import Kept
from portable.chat.record import Record
from portable.chat.session import Conversation, Turn
from portable.errors import DiskError, PortableError

BANNER = (
    "Input `exit` or `quit` to exit the conversation.",
    "Input `multi-line` to switch to multi-line input mode.",
    "Input `reset-system` to reset the system and clear the history.",
    "Input `clear` to clear the history.",
)
RULE = "-" * 50
STOPPED = "[stopped]"
_HINT = "Press Ctrl-C again to leave, or type `exit`."


class Interrupted(Exception):
    """Ctrl-C at the prompt; `typed`: there was text on the line, which is dropped."""

    def __init__(self, *, typed: bool) -> None:
        super().__init__()
        self.typed = typed


class Screen(Protocol):
    def read(self, prompt: str) -> str:
        """The next line. Raises EOFError at its end and Interrupted."""

    def show(self, text: str) -> None:
        """A part of an answer, at once."""

    def tell(self, line: str) -> None:
        """A line about the chat, which is no part of it."""

    def whisper(self, line: str) -> None:
        """A line that matters less."""


@dataclass(slots=True)
class Talk:
    """One session at a terminal. `run` returns the exit code. `facts` tell what runs where."""

    conversation: Conversation
    ask: Ask
    screen: Screen
    record: Record
    reader: Reader = field(default_factory=Reader)
    kept: Kept = field(default_factory=lambda: Kept(None))
    stream: bool = True
    stats: bool = True
    facts: Callable[[], Iterable[str]] = tuple
    _interrupts: int = 0

    def run(self) -> int:
        """Talk until the user leaves: 0, or 130 by Ctrl-C twice at an empty prompt."""
        for line in (*BANNER, *recap(self.conversation)):
            self.screen.tell(line)
        while True:
            try:
                action = self.reader.feed(self.screen.read(self.reader.prompt))
                self._interrupts = 0
                if isinstance(action, Leave):
                    return 0
                self._do(action)
            except EOFError:
                return 0
            except (Interrupted, KeyboardInterrupt) as error:
                # Also a Ctrl-C that came a moment after the answer had ended by itself.
                if self._wants_out(typed=isinstance(error, Interrupted) and error.typed):
                    return 130

    def _wants_out(self, *, typed: bool) -> bool:
        self.conversation.settle()
        if typed or self.reader.unfinished:
            self.reader.drop()
            self._interrupts = 0
            return False
        self._interrupts += 1
        if self._interrupts == 1:
            self.screen.tell(_HINT)
        return self._interrupts > 1

    def _do(self, action: Action | None) -> None:
        match action:
            case Send(text, role):
                self._answer(Turn(role, text))
            case Retry():
                self._retry()
            case Undo():
                self._undo()
            case Tell(lines):
                self._tell(lines)
            case Stats(on):
                self.stats = on
            case Where():
                self._tell(self.facts())
            case Clear():
                self.conversation.clear()
                self._remember()
            case SetSystem():
                self._set_system(action)

    def _tell(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.screen.tell(line)

    def _set_system(self, action: SetSystem) -> None:
        self.conversation.system = action.text
        self.conversation.clear()
        self._remember()
        if action.told:
            self.screen.tell("The system prompt is set; the history is cleared.")

    def _undo(self) -> None:
        if self.conversation.take_back() is None:
            self.screen.tell("There is nothing to take back.")
        else:
            self._remember()

    def _retry(self) -> None:
        last = self.conversation.take_back()
        if last is None:
            self.screen.tell("There is nothing to retry.")
        elif not self._answer(Turn(last.role, last.text)):
            self.conversation.turns.append(last)

    def _answer(self, turn: Turn) -> bool:
        """Ask, show and keep; a turn that gets no answer leaves no trace in the history."""
        self.conversation.turns.append(turn)
        started = _Started(self.screen)
        try:
            answer, left_out = ask_within(
                self.conversation, self.ask, started.show if self.stream else _nowhere
            )
            self._show_end(answer)
            self._tell_about(answer, left_out)
            return self._keep(turn, answer)
        except PortableError as error:
            if started.any:
                self.screen.show("\n")
            self.screen.tell(f"error: {error}")
            return turn.answer is not None
        finally:
            self.conversation.settle()

    def _show_end(self, answer: Answer) -> None:
        text = "" if self.stream else answer.text
        mark = f" {STOPPED}" if answer.stopped and answer.text else STOPPED * answer.stopped
        self.screen.show(f"{text}{mark}\n{RULE}\n")

    def _tell_about(self, answer: Answer, left_out: int) -> None:
        if left_out:
            turns = "turn was" if left_out == 1 else f"{left_out} turns were"
            self.screen.tell(
                f"The oldest {turns} left out: the conversation no longer fits the context"
                f" of {answer.context} tokens."
            )
        if answer.cut:
            self.screen.tell(f"The answer is cut: {answer.cut}.")
        if self.stats and answer.text and answer.usage:
            self.screen.whisper(figures(answer.usage, answer.context, answer.threads))

    def _remember(self) -> None:
        """Keep the conversation for another day; a disk that refuses is told once."""
        try:
            self.kept.save(self.conversation)
        except DiskError as error:
            self.kept = Kept(None)
            self.screen.tell(f"error: {error}. This conversation is no longer kept.")

    def _keep(self, turn: Turn, answer: Answer) -> bool:
        if answer.stopped and not answer.text:
            return False
        turn.answer, turn.stopped = answer.text, answer.stopped
        self._remember()
        messages = self.conversation.messages()
        self.record.append(answer.text, messages, stopped=answer.stopped)
        return True


def recap(conversation: Conversation) -> list[str]:
    """What was said last, for somebody who comes back."""
    if not conversation.turns:
        return []
    count, last = len(conversation.turns), conversation.turns[-1]
    turns = "1 turn" if count == 1 else f"{count} turns"
    return [f"Going on after {turns}. The last one:", f"> {last.text}", last.answer or "", RULE]


class _Started:
    """Passes an answer on and remembers whether there was any."""

    def __init__(self, screen: Screen) -> None:
        self.any = False
        self._screen = screen

    def show(self, text: str) -> None:
        self.any = True
        self._screen.show(text)


def _nowhere(text: str) -> None:
    """For answers that are shown whole at their end."""
