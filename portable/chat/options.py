"""What a chat is asked to be: one frozen value; knows no terminal and no engine in action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from portable.engine.backend import ModelInfo
from portable.engine.sequence import SamplingParams


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Everything about a chat that is not about the model.

    `system`: None is the chat template's own default, "" no system prompt. `params` may be a
    function, asked once when the model is loaded, for defaults that come with the model. `stats`:
    None is yes, and no with `quiet`. `prompt` asks for a single answer.
    `bare_commands` False lets `clear`, `exit` and the like be sent as messages. `thinking` is
    given to the template as `enable_thinking`; None leaves it to the template. `quiet` leaves out
    the bar while loading and the line on what runs where. The conversation is kept in the file
    `keep`; `resume` goes on with the one that is there. A single answer is kept only then.
    """

    system: str | None = None
    params: SamplingParams | Callable[[ModelInfo], SamplingParams] = field(
        default_factory=SamplingParams
    )
    stream: bool = True
    stats: bool | None = None
    result_path: Path | None = None
    prompt: str | None = None
    bare_commands: bool = True
    thinking: bool | None = None
    quiet: bool = False
    keep: Path | None = None
    resume: bool = False

    @property
    def shows_stats(self) -> bool:
        return not self.quiet if self.stats is None else self.stats
