"""Whether a request's tokens are some that the model can take."""

from __future__ import annotations

from portable.engine.backend import Backend
from portable.errors import ContextLengthExceeded, InvalidRequest


def check_prompt(tokens: list[int], backend: Backend) -> None:
    """Raise InvalidRequest unless the prompt fits the model's context with room for an answer."""
    if not tokens:
        raise InvalidRequest("the prompt is empty", param="prompt")
    if len(tokens) >= backend.context:
        raise ContextLengthExceeded(
            f"the prompt has {len(tokens)} tokens, the context holds {backend.context}",
            hint=f"shorten the messages or start with --context {len(tokens) + 512}",
            param="messages",
        )
    if not all(0 <= token < backend.vocabulary for token in tokens):
        raise InvalidRequest("a token id is outside the vocabulary", param="prompt")


def check_bias(bias: dict[int, float], vocabulary: int) -> None:
    if not all(0 <= token < vocabulary for token in bias):
        raise InvalidRequest("a token id is outside the vocabulary", param="logit_bias")
