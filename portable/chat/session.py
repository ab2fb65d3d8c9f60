"""The conversation so far, as turns; knows no terminal, no model and no commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from portable.engine.template import Message


@dataclass(slots=True)
class Turn:
    """One question and its answer, which is None until it has come.

    `role` is `user`, or `tool` for a tool's result. `stopped`: the answer was cut by the user.
    """

    role: str
    text: str
    answer: str | None = None
    stopped: bool = False

    def messages(self) -> list[Message]:
        question: Message = {"role": self.role, "content": self.text}
        if self.answer is None:
            return [question]
        return [question, {"role": "assistant", "content": self.answer}]


@dataclass(slots=True)
class Conversation:
    """`system`: None leaves it to the chat template, "" is an empty one."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def messages(self, start: int = 0) -> list[Message]:
        """As the chat template gets them, without the turns before `start`."""
        head: list[Message] = []
        if self.system is not None:
            head.append({"role": "system", "content": self.system})
        return head + [message for turn in self.turns[start:] for message in turn.messages()]

    def starts(self) -> list[int]:
        """Where the conversation may begin when the oldest turns are left out.

        Never at a tool's result, whose call would be missing; always with the newest turn.
        """
        return [at for at, turn in enumerate(self.turns) if at == 0 or turn.role != "tool"]

    def forget(self, start: int) -> None:
        """Drop the turns before `start`."""
        del self.turns[:start]

    def take_back(self) -> Turn | None:
        """Drop the newest turn, question and answer."""
        return self.turns.pop() if self.turns else None

    def settle(self) -> None:
        """Drop a question that got no answer."""
        if self.turns and self.turns[-1].answer is None:
            self.turns.pop()

    def clear(self) -> None:
        self.turns.clear()
