"""POST /v1/rerank: how well documents answer a query, best first."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine import protocol
from portable.errors import InvalidRequest
from portable.server.body import read_body
from portable.server.query import query, spent
from portable.server.replies import JSON
from portable.server.wire.embeddings import RerankRequest


async def rerank(request: Request) -> Response:
    """Scores from 0 to 1, in Jina's shape; to a request with `texts`, in that of TEI."""
    asked = await read_body(request, RerankRequest)
    field = "documents" if asked.documents else "texts"
    given = asked.documents or asked.texts
    if given is None:
        raise InvalidRequest("documents: what is to be ranked is missing", param="documents")
    texts = [document if isinstance(document, str) else document.text for document in given]
    ask = protocol.Rerank(asked.query, texts, bool(asked.truncate))
    served, answer = await query(request, asked.model, ask, field)
    usage = spent(request, answer.tokens)
    ranked = sorted(range(len(texts)), key=lambda at: -answer.raw[at])[: asked.top_n]
    if asked.documents is None:
        scores = answer.raw if asked.raw_scores else answer.scores
        return JSON([_tei(at, scores[at], texts[at], asked) for at in ranked])
    results = [_jina(at, answer.scores[at], texts[at], asked) for at in ranked]
    body = {"object": "list", "model": served.id, "results": results, "usage": usage}
    return JSON(body)


def _jina(at: int, score: float, text: str, asked: RerankRequest) -> dict[str, Any]:
    shown = {"document": {"text": text}} if asked.return_documents else {}
    return {"index": at, "relevance_score": score, **shown}


def _tei(at: int, score: float, text: str, asked: RerankRequest) -> dict[str, Any]:
    shown = {"text": text} if asked.return_text else {}
    return {"index": at, "score": score, **shown}
