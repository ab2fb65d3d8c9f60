"""What the engine's child process and its parent say to each other, as msgpack frames on pipes."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from portable import errors
from portable.engine.backend import ModelInfo
from portable.engine.findings import Finding
from portable.engine.sequence import Delta, SamplingParams, Thinking

HEADER = struct.Struct("<I")


class Begun(msgspec.Struct):
    """What the client has written of an answer that the model goes on with."""

    content: str = ""
    reasoning: str = ""


class Generate(msgspec.Struct, tag=True):
    """A request: chat `messages` with the template's `options`, or a raw `prompt` (text or ids)."""

    id: str
    params: SamplingParams
    messages: list[dict[str, Any]] | None = None
    options: dict[str, Any] = {}
    prompt: str | list[int] | None = None
    begun: Begun | None = None


class Embed(msgspec.Struct, tag=True):
    """Texts, or texts as token ids, into vectors of length 1.

    `dimensions` keeps so many numbers of each; `truncate` cuts texts that are too long.
    """

    texts: list[str | list[int]]
    dimensions: int | None = None
    truncate: bool = False


class Rerank(msgspec.Struct, tag=True):
    query: str
    documents: list[str]
    truncate: bool = False


class Tokenize(msgspec.Struct, tag=True):
    """`add_special` frames the text as the model wants it, `parse_special` lets it name tokens."""

    text: str
    add_special: bool = False
    parse_special: bool = True


class Detokenize(msgspec.Struct, tag=True):
    tokens: list[int]


class Render(msgspec.Struct, tag=True):
    """Messages by the model's chat template, as they are for Generate."""

    messages: list[dict[str, Any]]
    options: dict[str, Any] = {}
    begun: Begun | None = None
    thinking: Thinking | None = None


class Describe(msgspec.Struct, tag=True):
    """What the model's file says that only some want to know."""


Ask = Embed | Rerank | Tokenize | Detokenize | Render | Describe


class Query(msgspec.Struct, tag=True):
    """What is not generation."""

    id: str
    ask: Ask


class Vectors(msgspec.Struct, tag=True):
    """Rows of `width` little-endian float32, and how many tokens each text had."""

    data: bytes
    width: int
    tokens: list[int]


class Scores(msgspec.Struct, tag=True):
    """`raw` is as the model says it; `scores` are from 0 to 1."""

    scores: list[float]
    raw: list[float]
    tokens: list[int]


class Tokens(msgspec.Struct, tag=True):
    ids: list[int]
    pieces: list[bytes]


class Prompt(msgspec.Struct, tag=True):
    """What the model reads of a conversation."""

    text: str
    ids: list[int]


class Description(msgspec.Struct, tag=True):
    chat_template: str | None
    bos_token: str
    eos_token: str


Answer = Vectors | Scores | Tokens | Prompt | Description


class Cancel(msgspec.Struct, tag=True):
    id: str


class Loading(msgspec.Struct, tag=True):
    fraction: float


class Ready(msgspec.Struct, tag=True):
    info: ModelInfo
    offload_reason: str
    template: str  # the chat template's text; "" where there is none
    findings: list[Finding] = []


class Accepted(msgspec.Struct, tag=True):
    """The prompt is valid and queued: from here on an error comes as a delta."""

    id: str
    prompt_tokens: int


class Failed(msgspec.Struct, tag=True):
    """A request was refused, or loading failed if `id` is empty."""

    id: str
    kind: str
    message: str
    hint: str
    param: str | None


class Result(msgspec.Struct, tag=True):
    """A query's answer; its refusal is Failed."""

    id: str
    answer: Answer


class Deltas(msgspec.Struct, tag=True):
    deltas: list[Delta]


class Beat(msgspec.Struct, tag=True):
    """Sent every second: `steps` grows while the engine is alive and has work.

    `cells` are in use, of as many as the context has. `threads` are those of the last step, and
    `threads_reason` says why they are not all. `memory` is what the model takes, in bytes by device
    that is not the host. `token_seconds` is what a token alone took, timed once after loading.
    """

    steps: int
    unfinished: int
    cells: int
    threads: int
    threads_reason: str = ""
    memory: dict[str, int] = {}
    token_seconds: float = 0.0


Command = Generate | Query | Cancel
Event = Loading | Ready | Accepted | Failed | Result | Deltas | Beat

_encoder = msgspec.msgpack.Encoder()
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_event = msgspec.msgpack.Decoder(Event).decode


def frame(message: Command | Event) -> bytes:
    """Length and body, ready to be written."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def failed(id: str, error: BaseException) -> Failed:
    """An error as it crosses the pipe; what is none of ours becomes an EngineError."""
    if not isinstance(error, errors.PortableError):
        error = errors.EngineError(f"{type(error).__name__}: {error}")
    return Failed(id, type(error).__name__, error.message, error.hint, error.param)


def as_error(event: Failed) -> errors.PortableError:
    """The error that crossed the pipe, as its own class again."""
    kind = getattr(errors, event.kind, errors.EngineError)
    made: errors.PortableError = kind(event.message, hint=event.hint, param=event.param)
    return made
