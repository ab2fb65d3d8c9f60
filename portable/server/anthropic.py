"""A reply of Anthropic's messages API: one object, or the events that it grows by.

Source: https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from portable.engine.sequence import Usage
from portable.server import sse
from portable.server.blocks import Block, Blocks, Step
from portable.server.layout import Answer, Piece, Waiting
from portable.server.replies import anthropic_error

_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


_NO_END = {"stop_reason": None, "stop_sequence": None}


class MessageLayout:
    """`max_tokens` is what the request allows: an answer cut short of it has filled the context."""

    def __init__(self, model: str, max_tokens: int) -> None:
        self.id = f"msg_{uuid.uuid4().hex}"
        self._model, self._max_tokens = model, max_tokens
        self._blocks = Blocks()

    def begin(self, count: int, prompt_tokens: int | None) -> Iterator[bytes]:
        used = Usage(prompt_tokens or 0, 0, 0)
        yield _event("message_start", message=self._message([], _NO_END, used))

    def piece(self, piece: Piece) -> Iterator[bytes]:
        for step in self._blocks.push(piece.said):
            yield from _events(step)
        if piece.finish_reason:
            for step in self._blocks.finish():
                yield from _events(step)
            end = self._end(piece)
            yield _event("message_delta", delta=end, usage=usage(piece.usage))
            yield _event("message_stop")

    def silence(self, index: int, waiting: Waiting) -> Iterator[bytes]:
        yield _event("ping")

    def failure(self, code: str, message: str) -> Iterator[bytes]:
        yield sse.named_event(anthropic_error(message))

    def end(self, spent: Sequence[Usage]) -> Iterator[bytes]:
        return iter(())

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        (answer,) = answers
        for _ in itertools.chain(self._blocks.push(answer.said), self._blocks.finish()):
            pass
        content = [_whole(block) for block in self._blocks.all]
        return self._message(content, self._end(answer), answer.usage)

    def _message(
        self, content: list[dict[str, Any]], end: dict[str, Any], used: Usage
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            **end,
            "usage": usage(used),
        }

    def _end(self, last: Piece | Answer) -> dict[str, Any]:
        """Why it ended."""
        reason = "tool_use" if self._blocks.has_calls else "end_turn"
        if last.finish_reason == "length":
            is_full = last.usage.completion_tokens < self._max_tokens
            reason = "model_context_window_exceeded" if is_full else "max_tokens"
        elif last.stop:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": last.stop or None}


def usage(used: Usage) -> dict[str, Any]:
    """Anthropic's usage object: its input tokens are those that were read anew."""
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
    }


def _events(step: Step) -> Iterator[bytes]:
    at = step.block.index
    if step.change == "begin":
        yield _event("content_block_start", index=at, content_block=_empty(step.block))
    elif step.change == "more":
        type, name = _DELTAS[step.block.kind]
        yield _event("content_block_delta", index=at, delta={"type": type, name: step.text})
    else:
        if step.block.kind == "reasoning":
            # Nothing is signed here; clients wait for it.
            yield _event("content_block_delta", index=at, delta=_UNSIGNED)
        yield _event("content_block_stop", index=at)


_UNSIGNED = {"type": "signature_delta", "signature": ""}


def _empty(block: Block) -> dict[str, Any]:
    if block.kind == "call":
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _whole(block: Block) -> dict[str, Any]:
    if block.kind == "call":
        return _empty(block) | {"input": _input(block.text)}
    return _empty(block) | {_DELTAS[block.kind][1]: block.text}


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments. Those of an answer that was cut are no object: then there are none."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _event(type: str, **more: Any) -> bytes:
    return sse.named_event({"type": type, **more})
