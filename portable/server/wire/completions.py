"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from portable.server.wire.sampling import Sampling


class CompletionRequest(Sampling, kw_only=True):
    prompt: str | list[Any]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: int | None = None
