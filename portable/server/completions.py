"""POST /v1/completions: raw text, no template; several prompts make several choices."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine import protocol
from portable.engine.sequence import Usage
from portable.errors import InvalidRequest
from portable.server import params, sse
from portable.server.generate import Answer, Envelope
from portable.server.model import Stream
from portable.server.replies import JSON
from portable.server.state import State
from portable.server.wire import CompletionRequest, parse

Prompt = str | list[int]
_MAX_PROMPTS = 16
_MAX_ID = 1 << 31


async def completions(request: Request) -> Response:
    """A whole answer, or with `stream` its chunks as they come."""
    state: State = request.app.state.portable
    asked = parse(await request.body(), CompletionRequest)
    model = state.names.resolve(asked.model)
    params.refuse_unsupported(asked)
    prompts = read_prompts(asked.prompt)
    if asked.stream and len(prompts) > 1:
        raise InvalidRequest("prompt: a stream answers one prompt", param="prompt")
    if asked.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequest("echo: only a prompt that is text can be echoed", param="echo")
    envelope = _envelope(model, asked, prompts[0])
    said = params.sampling(asked)
    asks = [
        _Ask(state, request, f"{envelope.id}-{at}", prompt, said)
        for at, prompt in enumerate(prompts)
    ]
    if asked.stream:
        stream = await asks[0].accepted(patient=False)
        return state.generator.stream(stream, envelope, asks[0].headers)
    answers = await _together([ask.answer() for ask in asks])
    echoed = [str(prompt) if asked.echo else "" for prompt in prompts]
    return JSON(_body(envelope, answers, echoed), headers=asks[0].headers)


def read_prompts(prompt: str | list[Any]) -> list[Prompt]:
    """One text, texts, token ids, or lists of them. Raises InvalidRequest for anything else."""
    if isinstance(prompt, str):
        return [prompt]
    if _are_ids(prompt):
        return [prompt]
    if not prompt or not all(isinstance(p, str) or _are_ids(p) for p in prompt):
        raise InvalidRequest("prompt: a text, token ids, or a list of either", param="prompt")
    if len(prompt) > _MAX_PROMPTS:
        raise InvalidRequest(f"prompt: at most {_MAX_PROMPTS} prompts", param="prompt")
    return prompt


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_ID


@dataclass(slots=True)
class _Ask:
    """One of the prompts."""

    state: State
    request: Request
    id: str
    prompt: Prompt
    said: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    async def accepted(self, *, patient: bool) -> Stream:
        generator = self.state.generator
        stream = generator.open(self.id, self._command)
        try:
            tokens = await generator.accepted(self.request, stream, patient=patient)
        except InvalidRequest as error:  # the engine knows prompts only as messages
            error.param = "prompt" if error.param == "messages" else error.param
            raise
        self.headers = self.state.clamped(self.said, tokens)
        return stream

    async def answer(self) -> Answer:
        stream = await self.accepted(patient=True)
        return await self.state.generator.answer(self.request, stream)

    def _command(self) -> protocol.Generate:
        return protocol.Generate(self.id, self.state.sampling(self.said), prompt=self.prompt)


async def _together(work: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """All answers; the first error stops the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _envelope(model: str, asked: CompletionRequest, prompt: Prompt) -> Envelope:
    def choices(text: str, finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}]

    return Envelope(
        kind="text_completion",
        model=model,
        prefix="cmpl",
        start=(lambda: choices(str(prompt))) if asked.echo else None,
        delta=choices,
        finish=lambda reason: choices("", reason),
        include_usage=asked.includes_usage,
    )


def _body(envelope: Envelope, answers: list[Answer], echoed: list[str]) -> dict[str, Any]:
    choices = [
        {
            "index": at,
            "text": text + answer.text,
            "finish_reason": answer.finish_reason,
            "logprobs": None,
        }
        for at, (text, answer) in enumerate(zip(echoed, answers, strict=True))
    ]
    used = [answer.usage or Usage(0, 0, 0) for answer in answers]
    total = Usage(
        prompt_tokens=sum(u.prompt_tokens for u in used),
        cached_tokens=sum(u.cached_tokens for u in used),
        completion_tokens=sum(u.completion_tokens for u in used),
    )
    return envelope.chunk(choices, usage=sse.usage(total))
