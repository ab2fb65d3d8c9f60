"""A reply of the Responses API: one object, or the events that it grows by.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from portable.engine.sequence import TokenLogprob, Usage
from portable.server import items, sse
from portable.server.blocks import Block, Blocks, Step
from portable.server.layout import Answer, Piece, Waiting
from portable.server.openai import tokens, waited
from portable.server.wire.responses import ResponseRequest

Keep = Callable[[dict[str, Any]], None]

_PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
_STREAMS = {
    "text": "response.output_text",
    "reasoning": "response.reasoning_text",
    "call": "response.function_call_arguments",
}


class ResponseLayout:
    """`keep` gets the response when it is whole; `home` begins its id."""

    def __init__(self, model: str, asked: ResponseRequest, keep: Keep, home: str = "") -> None:
        self.id = f"resp_{home}{uuid.uuid4().hex}"
        self._keep = keep
        self._numbers = itertools.count()
        self._blocks = Blocks()
        self._output: list[dict[str, Any]] = []
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text has not come yet
        self._shared = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            **_echo(asked),
        }

    def begin(self, count: int, prompt_tokens: int | None) -> Iterator[bytes]:
        yield self._lifecycle("created", self._response("in_progress"))
        yield self._lifecycle("in_progress", self._response("in_progress"))

    def piece(self, piece: Piece) -> Iterator[bytes]:
        self._logprobs += piece.logprobs
        for step in self._blocks.push(piece.said):
            yield from self._step(step, "completed")
        if piece.finish_reason:
            status = _status(piece.finish_reason)
            for step in self._blocks.finish():
                yield from self._step(step, status)
            response = self._finished(status, piece.usage)
            yield self._lifecycle(status, response)

    def silence(self, index: int, waiting: Waiting) -> Iterator[bytes]:
        # Not a comment: clients that wait for events with a limit do not count those.
        response = self._response("in_progress")
        yield self._event("response.in_progress", response=response, **waited(waiting))

    def failure(self, code: str, message: str) -> Iterator[bytes]:
        yield self._event("error", code=code, message=message, param=None)
        error = {"code": "server_error", "message": message}
        yield self._lifecycle("failed", self._response("failed", error=error))

    def end(self, spent: Sequence[Usage]) -> Iterator[bytes]:
        return iter(())

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        (answer,) = answers
        status = _status(answer.finish_reason)
        # Which tokens are whose is not known where thoughts and calls came with the text.
        alone = not (answer.said.reasoning or answer.said.calls)
        for step in itertools.chain(self._blocks.push(answer.said), self._blocks.finish()):
            if alone:
                step.block.logprobs = answer.logprobs
            last = step.block.index == len(self._blocks.all) - 1
            self._note(step, status if last else "completed")
        return self._finished(status, answer.usage)

    def _step(self, step: Step, status: str) -> Iterator[bytes]:
        """The events of a step; `status` is the item's if this ends it."""
        self._note(step, status)
        block = step.block
        if step.change == "begin":
            yield self._of(block, "response.output_item.added", item=self._output[block.index])
            if block.kind != "call":
                yield self._within(block, "content_part.added", part=items.part(block, empty=True))
        elif step.change == "more":
            yield self._within(block, "delta", delta=step.text, **self._likely(block))
        else:
            yield from self._ended(block)

    def _likely(self, block: Block) -> dict[str, Any]:
        """How likely the tokens were that a text has just got; thoughts and calls tell nothing."""
        found, self._logprobs = self._logprobs, []
        if block.kind != "text":
            return {}
        block.logprobs += found
        return {"logprobs": tokens(found)}

    def _ended(self, block: Block) -> Iterator[bytes]:
        if block.kind == "call":
            yield self._within(block, "done", arguments=block.text, name=block.name)
        else:
            likely = {"logprobs": tokens(block.logprobs)} if block.kind == "text" else {}
            yield self._within(block, "done", text=block.text, **likely)
            yield self._within(block, "content_part.done", part=items.part(block))
        yield self._of(block, "response.output_item.done", item=self._output[block.index])

    def _note(self, step: Step, status: str) -> None:
        """Keep the output true: an item for each block."""
        block = step.block
        if step.change == "begin":
            id = f"{_PREFIXES[block.kind]}_{uuid.uuid4().hex}"
            self._output.append(items.item(block, id, "in_progress"))
        elif step.change == "end":
            self._output[block.index] = items.item(block, self._output[block.index]["id"], status)

    def _within(self, block: Block, name: str, /, **more: Any) -> bytes:
        """An event of a block's text: of calls they name no content part."""
        place = {} if block.kind == "call" else {"content_index": 0}
        stem = "response" if "." in name else _STREAMS[block.kind]
        id = self._output[block.index]["id"]
        return self._of(block, f"{stem}.{name}", item_id=id, **place, **more)

    def _of(self, block: Block, type: str, **more: Any) -> bytes:
        return self._event(type, output_index=block.index, **more)

    def _lifecycle(self, name: str, response: dict[str, Any]) -> bytes:
        return self._event(f"response.{name}", response=response)

    def _event(self, type: str, **more: Any) -> bytes:
        return sse.named_event({"type": type, "sequence_number": next(self._numbers), **more})

    def _finished(self, status: str, used: Usage) -> dict[str, Any]:
        why = {"reason": "max_output_tokens"} if status == "incomplete" else None
        at = int(time.time()) if status == "completed" else None
        response = self._response(
            status, incomplete_details=why, completed_at=at, usage=usage(used)
        )
        self._keep(response)
        return response

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        unknown = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
        return {**self._shared, "status": status, "output": [*self._output], **unknown, **more}


def usage(used: Usage) -> dict[str, Any]:
    """The Responses API's usage object."""
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def _status(reason: str) -> str:
    return "incomplete" if reason == "length" else "completed"


def _echo(asked: ResponseRequest) -> dict[str, Any]:
    """What a response repeats of its request."""
    said = msgspec.to_builtins(asked)
    names = (
        *("instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p"),
        *("reasoning", "user"),
    )
    return {
        **{name: said[name] for name in names},
        "metadata": said["metadata"] or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "store": asked.store is not False,
        "text": {"format": {"type": "text"}} if asked.text is None else said["text"],
        "tools": said["tools"] or [],
        "tool_choice": said["tool_choice"] or "auto",
        "background": False,
        "truncation": "disabled",
    }
