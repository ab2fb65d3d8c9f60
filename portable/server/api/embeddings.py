"""POST /v1/embeddings: texts into vectors of length 1."""

from __future__ import annotations

import base64
import struct
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from portable.engine import protocol
from portable.server.body import read_body
from portable.server.query import query, spent
from portable.server.replies import JSON
from portable.server.served import Served
from portable.server.wire.embeddings import MAX_TEXTS, EmbeddingsRequest
from portable.server.wire.texts import read_texts

_NOT_TRAINED = "this model was not trained for embeddings: they are the mean of its last layer"


async def embeddings(request: Request) -> Response:
    """A vector for each text, in order: as numbers, or as base64 of little-endian float32."""
    asked = await read_body(request, EmbeddingsRequest)
    texts = read_texts(asked.input, "input", MAX_TEXTS)
    ask = protocol.Embed(texts, asked.dimensions, bool(asked.truncate))
    served, vectors = await query(request, asked.model, ask)
    body = {
        "object": "list",
        "data": _data(vectors, as_text=asked.encoding_format == "base64"),
        "model": served.id,
        "usage": spent(request, vectors.tokens),
    }
    return JSON(body, headers=_warning(served))


def _data(vectors: protocol.Vectors, *, as_text: bool) -> list[dict[str, Any]]:
    size = 4 * vectors.width
    rows = [vectors.data[at : at + size] for at in range(0, len(vectors.data), size)]
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": _text(row) if as_text else _floats(row),
        }
        for index, row in enumerate(rows)
    ]


def _text(row: bytes) -> str:
    return base64.b64encode(row).decode("ascii")


def _floats(row: bytes) -> list[float]:
    """Little-endian float32 as numbers."""
    return list(struct.unpack(f"<{len(row) // 4}f", row))


def _warning(served: Served) -> dict[str, str]:
    info, config = served.process.info, served.process.config
    trained = info is None or info.task != "generate" or config.pooling != "auto"
    return {} if trained else {"x-portable-warning": _NOT_TRAINED}
