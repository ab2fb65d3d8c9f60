"""One question, asked so that it fits the context; knows no terminal and no engine in action.

`Ask` is the seam: `answer.py` puts the model behind it, tests a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from portable.chat.session import Conversation
from portable.engine.sequence import Usage
from portable.engine.template import Message
from portable.errors import ContextLengthExceeded

# Shares of the context that stay free for the answer: the whole conversation needs little, a
# shortened one more, so that not every later turn has to be shortened and read anew.
_WHOLE, _SHORTENED = 1 / 32, 1 / 4

Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """`stopped` by the user; `cut` says which limit ended it; `context` tokens there are in all.

    `threads` says how many worked at its end and why, if not all.
    """

    text: str
    stopped: bool = False
    cut: str = ""
    usage: Usage | None = None
    context: int = 0
    threads: str = ""


class Ask(Protocol):
    def __call__(self, messages: list[Message], show: Show, *, spare: float = 0.0) -> Answer:
        """Answer, showing text as it comes.

        Raises ContextLengthExceeded, before anything is shown, unless `spare` of the context stays
        free beside the prompt; and any other PortableError.
        """


def ask_within(conversation: Conversation, ask: Ask, show: Show) -> tuple[Answer, int]:
    """The newest turn's answer, and how many of the oldest turns had to be left out for it.

    They are forgotten. When even the newest turn alone is too long, ContextLengthExceeded is raised
    and nothing is forgotten.
    """
    starts = conversation.starts()
    for start in starts[:-1]:
        try:
            spare = _SHORTENED if start else _WHOLE
            answer = ask(conversation.messages(start), show, spare=spare)
        except ContextLengthExceeded:
            continue
        conversation.forget(start)
        return answer, start
    answer = ask(conversation.messages(starts[-1]), show)
    conversation.forget(starts[-1])
    return answer, starts[-1]


def figures(usage: Usage, context: int, threads: str = "") -> str:
    """How fast it went, in one line."""
    first = usage.queue_seconds + usage.prompt_seconds
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    parts = [
        f"first token {first:.2f} s",
        f"prompt {usage.prompt_tokens} tokens{cached}{_rate(usage.prompt_rate)}",
        f"answer {usage.completion_tokens} tokens{_rate(usage.decode_rate)}",
        f"context {usage.prompt_tokens + usage.completion_tokens}/{context}",
        *([f"guesses {usage.accepted_tokens}/{usage.drafted_tokens}"] * bool(usage.drafted_tokens)),
        *([threads] if threads else []),
    ]
    return " · ".join(parts)


def _rate(value: float) -> str:
    return f", {value:.1f} tok/s" if value else ""
