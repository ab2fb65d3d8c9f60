"""POST /v1/completions: raw text, no template; several prompts make several choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine.sequence import TokenLogprob
from portable.errors import InvalidRequest
from portable.server import params
from portable.server.body import read_body
from portable.server.generate import respond
from portable.server.layout import Answer, Piece
from portable.server.openai import Chunks, usage
from portable.server.wanted import Wanted
from portable.server.wire.completions import CompletionRequest
from portable.server.wire.texts import read_texts

_MAX_PROMPTS = 16


async def completions(request: Request) -> Response:
    """A whole answer, or with `stream` its chunks as they come."""
    asked = await read_body(request, CompletionRequest)
    params.refuse_unsupported(asked)
    prompts = read_texts(asked.prompt, "prompt", _MAX_PROMPTS)
    if asked.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequest("echo: only a prompt that is text can be echoed", param="echo")
    wanted = Wanted(
        prompts=prompts,
        said=params.sampling(asked),
        model=asked.model,
        count=asked.n or 1,
        stream=bool(asked.stream),
        **params.lodging(asked),
        param="prompt",
    )
    echoed = [str(prompt) if asked.echo else "" for prompt in prompts]
    return await respond(
        request,
        wanted,
        lambda model: TextLayout(model, echoed, wanted.count, include_usage=asked.includes_usage),
    )


class TextLayout(Chunks):
    """Choices with a text: `count` to each prompt, in the prompts' order, each after its echo."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(
        self, model: str, echoed: Sequence[str], count: int, *, include_usage: bool
    ) -> None:
        super().__init__(model, include_usage=include_usage, prompts=len(echoed))
        self._echoed, self._count = echoed, count
        self._told = Counter[int]()

    def start(self, index: int) -> list[dict[str, Any]]:
        echo = self._echo(index)
        return _choices(index, echo) if echo else []

    def delta(self, piece: Piece) -> list[dict[str, Any]]:
        choices = _choices(piece.index, piece.said.content)
        if piece.logprobs:
            choices[0]["logprobs"] = self._logprobs(piece.index, piece.logprobs)
        return choices

    def finish(self, index: int, reason: str) -> list[dict[str, Any]]:
        return _choices(index, "", reason)

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = []
        for at, answer in enumerate(answers):
            text = self._echo(at) + answer.said.content
            choices += _choices(at, text, answer.finish_reason)
            if answer.logprobs:
                choices[-1]["logprobs"] = self._logprobs(at, answer.logprobs)
        spent = usage([answer.usage for answer in answers], len(self._echoed))
        return self.whole(self.kind, choices, usage=spent)

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The older form: lists side by side, and where in the answer each token begins."""
        tokens, offsets = [], []
        for known in logprobs:
            tokens.append(known.token.decode("utf-8", "replace"))
            offsets.append(self._told[index])
            self._told[index] += len(tokens[-1])
        return {
            "tokens": tokens,
            "token_logprobs": [known.logprob for known in logprobs],
            "top_logprobs": [
                {token.decode("utf-8", "replace"): logprob for token, logprob in known.top}
                for known in logprobs
            ],
            "text_offset": offsets,
        }

    def _echo(self, index: int) -> str:
        return self._echoed[index // self._count]


def _choices(index: int, text: str, finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": index, "text": text, "finish_reason": finish, "logprobs": None}]
