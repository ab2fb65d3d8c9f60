"""Runs a model until its whole context is used and prints what the process takes; a program.

Arguments: a GGUF file, tokens of context, type of the KV cache.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil

from portable.engine.config import EngineConfig
from portable.engine.embedding.kind import kind_of
from portable.engine.embedding.service import EmbeddingService
from portable.engine.sequence import SamplingParams
from portable.engine.service import Service
from portable.engine.worker import Streams

TOKEN, ANSWER = 5, 4


def embedded(config: EngineConfig) -> None:
    service = EmbeddingService(config)
    embedder = service.embedder()
    embedder.add("text", [[TOKEN] * (config.context - 2)])
    while embedder.has_work:
        embedder.step()


def generated(config: EngineConfig) -> None:
    streams = Streams()
    service = Service(config, streams)
    streams.open("text")
    tokens = [TOKEN] * (config.context - ANSWER - 1)
    service.worker.submit("text", tokens, SamplingParams(temperature=0.0, max_tokens=ANSWER))
    assert list(streams.read("text"))[-1].error is None


def main(path: str, context: str, kv_type: Any) -> None:
    config = EngineConfig(
        Path(path), context=int(context), slots=1, threads=1, kv_type=kv_type, gpu_layers=0
    )
    (generated if kind_of(config).task == "generate" else embedded)(config)
    print(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(*sys.argv[1:])
