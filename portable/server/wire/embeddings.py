"""The bodies of POST /v1/embeddings and /v1/rerank."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

# As many as OpenAI takes at once.
MAX_TEXTS = 2048


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """`truncate` cuts texts that are too long instead of refusing them."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None
    truncate: bool | None = None


class Document(msgspec.Struct):
    text: str


class RerankRequest(msgspec.Struct, kw_only=True):
    """Jina's fields, or with `texts` those of text-embeddings-inference (`return_text`,
    `raw_scores`), as llama-server takes both."""

    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_TEXTS)] | None = (
        None
    )
    texts: Annotated[list[str], Meta(min_length=1, max_length=MAX_TEXTS)] | None = None
    model: str | None = None
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None
    truncate: bool | None = None
