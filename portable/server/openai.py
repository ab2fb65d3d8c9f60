"""What OpenAI's two text endpoints share on the wire: chunks, usage, timings.

Measured: an SSE comment as keep-alive hangs ms-swift's client for ever, a chunk without `content`
breaks the tutorial's openai script. So every event is a `data:` chunk with a text.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from portable import __version__
from portable.engine.sequence import TokenLogprob, Usage
from portable.server import sse
from portable.server.layout import Piece, Waiting
from portable.server.replies import error_body


class Chunks(ABC):
    """A reply as OpenAI's chunks; `delta`, `start` and `finish` say what their choices hold."""

    kind: str
    prefix: str

    def __init__(self, model: str, *, include_usage: bool, prompts: int = 1) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._include_usage, self._prompts = include_usage, prompts
        self._shared = {
            "id": self.id,
            "object": self.kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"portable-{__version__}",
        }

    @abstractmethod
    def start(self, index: int) -> list[dict[str, Any]]:
        """The choices of the first chunk; none where there is nothing to say yet."""

    @abstractmethod
    def delta(self, piece: Piece) -> list[dict[str, Any]]:
        """The choices of a chunk in the middle."""

    @abstractmethod
    def finish(self, index: int, reason: str) -> list[dict[str, Any]]:
        """The choices of the last chunk of one answer."""

    def begin(self, count: int, prompt_tokens: int | None) -> Iterator[bytes]:
        for index in range(count):
            if choices := self.start(index):
                yield self._event(choices)

    def piece(self, piece: Piece) -> Iterator[bytes]:
        if piece.finish_reason:
            own = {} if self._include_usage else {"usage": usage([piece.usage])}
            last = self.finish(piece.index, piece.finish_reason)
            yield self._event(last, **own, timings=timings(piece.usage))
        else:
            yield self._event(self.delta(piece))

    def silence(self, index: int, waiting: Waiting) -> Iterator[bytes]:
        yield self._event(self.delta(Piece(index)), **waited(waiting))

    def failure(self, code: str, message: str) -> Iterator[bytes]:
        """For both kinds of clients, OpenAI's and ms-swift's."""
        yield sse.event(error_body(message, code=code))
        yield sse.DONE

    def end(self, spent: Sequence[Usage]) -> Iterator[bytes]:
        if self._include_usage and spent:
            yield self._event([], usage=usage(spent, self._prompts))
        yield sse.DONE

    def whole(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The reply as one object."""
        return {**self._shared, "object": kind, "choices": choices, **more}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return sse.event({**self._shared, "choices": choices, **more})


def waited(waiting: Waiting) -> dict[str, Any]:
    """What an event tells beside its own fields while there is nothing to say."""
    more: dict[str, Any] = {"portable": waiting.told()}
    if read := waiting.progress:  # as llama-server tells it
        more["prompt_progress"] = {
            "total": read.total,
            "cache": read.cached,
            "processed": read.processed,
            "time_ms": round(read.seconds * 1000),
        }
    return more


def tokens(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Each token with its bytes and probability, and the likeliest ones in its place.

    In a chat's choice alone: ms-swift's client cannot read OpenAI's `refusal` beside them.
    """
    return [
        {**_token(known.token, known.logprob), "top_logprobs": [_token(*top) for top in known.top]}
        for known in logprobs
    ]


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}


def usage(spent: Sequence[Usage], prompts: int = 1) -> dict[str, Any]:
    """OpenAI's usage object of all answers; a prompt counts once, however many it has."""
    each = len(spent) // prompts
    of_prompts = [spent[at : at + each] for at in range(0, len(spent), each)]
    prompt = sum(used[0].prompt_tokens for used in of_prompts)
    cached = sum(min(one.cached_tokens for one in used) for used in of_prompts)
    completion = sum(used.completion_tokens for used in spent)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings(used: Usage) -> dict[str, Any]:
    """Where the time went, in seconds and tokens a second."""
    return {
        "queue_seconds": round(used.queue_seconds, 4),
        "prompt_seconds": round(used.prompt_seconds, 4),
        "decode_seconds": round(used.decode_seconds, 4),
        "prompt_per_second": round(used.prompt_rate, 2),
        "predicted_per_second": round(used.decode_rate, 2),
        "draft_n": used.drafted_tokens,
        "draft_n_accepted": used.accepted_tokens,
    }
