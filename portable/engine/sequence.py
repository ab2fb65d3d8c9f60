"""One request's life, from tokens to the reason it ended; knows no clock, thread or model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like; `param` is the request's field that says so.

    Rules `control_0`, … of a Lark grammar stand for the tokens of these names, or for the names as
    text where the model has no such token. `places` are the fields that its lines come from.
    """

    kind: Literal["json_schema", "regex", "lark", "gbnf"]
    text: str
    param: str = "grammar"
    control: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thinking:
    """The tags around what a model thinks first, and how many tokens it may think.

    A thought that the prompt has `opened` has its opening tag in the answer's text, as others have.
    """

    open: str
    close: str
    budget: int | None = None
    opened: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn. The defaults are OpenAI's: the distribution as it is.

    `temperature` 0 is greedy. The order is vLLM's and transformers': bias and penalties,
    temperature, `top_k` (0: off), `top_p`, `min_p`. `repetition_penalty` looks at prompt and
    answer, `presence_penalty` and `frequency_penalty` at the answer. `seed` None draws anew each
    time. `max_tokens` None runs to the end of the context. `grammar` comes last of what changes
    logits: nothing else can undo it; it holds from the end of a thought on. `shown` are control
    tokens, by name, that the text has in it. With `logprobs` each token tells its probability, and
    those of so many likeliest ones.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    grammar: Grammar | None = None
    thinking: Thinking | None = None
    shown: tuple[str, ...] = ()
    logprobs: int | None = None

    @property
    def begun(self) -> str:
        """What the answer's text begins with, before any token."""
        return self.thinking.open if self.thinking and self.thinking.opened else ""


def layered(*layers: Mapping[str, Any]) -> SamplingParams:
    """Defaults laid over each other, later ones win: catalogue, model file, command line."""
    values: dict[str, Any] = {}
    for layer in layers:
        values |= layer
    if "top_k" in values:
        values["top_k"] = max(0, int(values["top_k"]))
    return SamplingParams(**values)


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, its answer so far, and how much of both lies in the KV cache.

    `tokens` is prompt plus answer; its first `cached` entries are decoded and hold cells in `slot`.
    `draft` is a guess at what follows them; of all `drafted` tokens so many were `accepted`.
    `sought`: what the prompt begins with was looked for on disk. Reading stops at each of `pauses`,
    so that a mark can be left there.
    """

    id: str
    tokens: list[int]
    params: SamplingParams
    n_prompt: int = field(init=False)
    slot: int = -1
    cached: int = 0
    reused: int = 0
    draft: tuple[int, ...] = ()
    drafted: int = 0
    accepted: int = 0
    sought: bool = False
    pauses: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.n_prompt = len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens not decoded yet: 1 while answering, more while the prompt is read."""
        return len(self.tokens) - self.cached

    @property
    def readable(self) -> int:
        """Tokens that may be decoded at once, up to the next pause."""
        return min((at for at in self.pauses if at > self.cached), default=len(self.tokens)) - (
            self.cached
        )

    @property
    def n_output(self) -> int:
        return len(self.tokens) - self.n_prompt

    def room(self, context: int) -> int:
        """Tokens that may still follow the next one, in a context of so many."""
        left = context - len(self.tokens)
        if self.params.max_tokens is not None:
            left = min(left, self.params.max_tokens - self.n_output)
        return max(0, left - 1)

    @property
    def is_running(self) -> bool:
        return self.slot >= 0


@dataclass(frozen=True, slots=True)
class Slice:
    """`count` tokens of one sequence from position `start`, and a draft of what follows them."""

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()

    @property
    def tokens(self) -> list[int]:
        return self.sequence.tokens[self.start : self.start + self.count] + list(self.draft)

    @property
    def size(self) -> int:
        return self.count + len(self.draft)

    @property
    def rows(self) -> int:
        """Logits wanted: the sequence's last token says what comes next, and each of the draft."""
        reaches_end = self.start + self.count == len(self.sequence.tokens)
        return 1 + len(self.draft) if reaches_end else 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request took: tokens, and seconds from being queued to its end."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    queue_seconds: float = 0.0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens really computed, a second."""
        return _rate(self.prompt_tokens - self.cached_tokens, self.prompt_seconds)

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first one."""
        return _rate(self.completion_tokens - 1, self.decode_seconds)


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the `total` tokens of a prompt so many are `processed`, in so many `seconds`.

    `cached` of them were found.
    """

    total: int
    cached: int
    processed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's bytes and the natural logarithm of its probability; `top` are the likeliest.

    As the model said it: before bias, penalties, temperature and grammar, as vLLM tells them.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one request; the last one carries `finish_reason` and `usage`.

    While the prompt is read there is no text, but `progress`. `stop` is the stop string that ended
    the answer.
    """

    id: str
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: tuple[str, str] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    progress: Progress | None = None
    stop: str = ""


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0
