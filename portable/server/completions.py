"""POST /v1/completions: raw text, no template; several prompts make several choices."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine import protocol
from portable.engine.sequence import Usage
from portable.errors import InvalidRequest
from portable.server import params, sse
from portable.server.generate import Answer, Envelope
from portable.server.replies import JSON
from portable.server.state import State
from portable.server.wire import CompletionRequest, parse

Prompt = str | list[int]
_MAX_PROMPTS = 16


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
    commands = [
        protocol.Generate(
            f"{envelope.id}-{at}", params.sampling(asked, state.defaults), prompt=prompt
        )
        for at, prompt in enumerate(prompts)
    ]
    if asked.stream:
        stream = state.generator.open(commands[0])
        await state.generator.accepted(request, stream, patient=False)
        return sse.EventStream(state.generator.events(stream, envelope), {})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_answer(state, request, command)) for command in commands]
    answers = [task.result() for task in tasks]
    echoed = [str(prompt) if asked.echo else "" for prompt in prompts]
    return JSON(_body(envelope, answers, echoed))


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
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


async def _answer(state: State, request: Request, command: protocol.Generate) -> Answer:
    stream = state.generator.open(command)
    await state.generator.accepted(request, stream, patient=True)
    return await state.generator.answer(request, stream)


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
