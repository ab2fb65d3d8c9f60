"""What a request asks of a model, whichever API's words it came in; knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from portable.engine import protocol
from portable.engine.sequence import SamplingParams


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as chat templates expect them, and what the template is told beside them."""

    messages: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)


Prompt = Conversation | str | list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`count` answers to each of the prompts: a conversation, a raw text or token ids.

    `said` is what the request itself says of how tokens are drawn, as SamplingParams' fields.
    `model` None or "" is the server's first one. From now on it is kept for `keep_alive` seconds
    after its last request (None: for ever; "": as before), and has room for `context` tokens.
    With `progress` a stream tells how far the prompt is read. `param` is the field that the
    prompts came in.
    """

    prompts: Sequence[Prompt]
    said: dict[str, Any]
    model: str | None = None
    count: int = 1
    stream: bool = False
    param: str = "messages"
    keep_alive: float | Literal[""] | None = ""
    context: int | None = None
    progress: bool = False

    @property
    def answers(self) -> int:
        """How many there will be, of all prompts."""
        return len(self.prompts) * self.count

    def said_of(self, at: int) -> dict[str, Any]:
        """How answer `at` is drawn: with a seed each draws its own, the same each time."""
        said = self.said
        return said | {"seed": said["seed"] + at % self.count} if "seed" in said else said

    def command(self, id: str, at: int, params: SamplingParams) -> protocol.Generate:
        """Answer `at`, as the engine is asked for it."""
        prompt = self.prompts[at // self.count]
        if isinstance(prompt, Conversation):
            return protocol.Generate(id, params, prompt.messages, prompt.options)
        return protocol.Generate(id, params, prompt=prompt)
