"""What a request asks of a model, whichever API's words it came in; knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from portable.dialects.toolbox import Toolbox
from portable.engine import protocol


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as chat templates expect them, and what the template is told beside them.

    `begun` is what the client has written of the answer. The model may think `thinking_budget`
    tokens; its thoughts stay in the content where the format is "none".
    """

    messages: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    tools: Toolbox | None = None
    reasoning_format: Literal["none", "deepseek", "auto"] = "auto"
    thinking_budget: int | None = None
    begun: protocol.Begun | None = None


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

    def prompt_of(self, at: int) -> Prompt:
        """What answer `at` answers."""
        return self.prompts[at // self.count]
