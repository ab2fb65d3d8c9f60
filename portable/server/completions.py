"""POST /v1/completions: raw text, no template; several prompts make several choices."""

from __future__ import annotations

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
_MAX_ID = 1 << 31


async def completions(request: Request) -> Response:
    """A whole answer, or with `stream` its chunks as they come."""
    state: State = request.app.state.portable
    asked = parse(await request.body(), CompletionRequest)
    model = state.names.resolve(asked.model)
    params.refuse_unsupported(asked)
    prompts = read_prompts(asked.prompt)
    if asked.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequest("echo: only a prompt that is text can be echoed", param="echo")
    count = asked.n or 1
    wanted = [prompt for prompt in prompts for _ in range(count)]
    echoed = [str(prompt) if asked.echo else "" for prompt in wanted]
    envelope = _envelope(model, asked, echoed)
    said = params.sampling(asked)

    def command(id: str, at: int) -> protocol.Generate:
        sampling = state.sampling(params.of_choice(said, at % count))
        return protocol.Generate(id, sampling, prompt=wanted[at])

    asks = state.asks(envelope.id, len(wanted), command)
    try:
        if asked.stream:
            streams = await state.generator.streams(request, asks)
            headers = state.clamped(said, asks[0].prompt_tokens)
            return state.generator.stream(streams, envelope, headers)
        answers = await state.generator.answers(request, asks)
    except InvalidRequest as error:  # the engine knows prompts only as messages
        error.param = "prompt" if error.param == "messages" else error.param
        raise
    headers = state.clamped(said, asks[0].prompt_tokens)
    return JSON(_body(envelope, answers, echoed, count), headers=headers)


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


def _envelope(model: str, asked: CompletionRequest, echoed: list[str]) -> Envelope:
    def choices(index: int, text: str, finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": index, "text": text, "finish_reason": finish, "logprobs": None}]

    return Envelope(
        kind="text_completion",
        model=model,
        prefix="cmpl",
        start=(lambda index: choices(index, echoed[index])) if asked.echo else None,
        delta=choices,
        finish=lambda index, reason: choices(index, "", reason),
        include_usage=asked.includes_usage,
    )


def _body(
    envelope: Envelope, answers: list[Answer], echoed: list[str], count: int
) -> dict[str, Any]:
    """`count` answers to each prompt, in the prompts' order."""
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
        prompt_tokens=sum(u.prompt_tokens for u in used[::count]),
        cached_tokens=sum(u.cached_tokens for u in used[::count]),
        completion_tokens=sum(u.completion_tokens for u in used),
    )
    return envelope.chunk(choices, usage=sse.usage(total))
