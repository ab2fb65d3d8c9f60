"""A model that reads chunks, each from an empty cache, and guesses after each token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from portable.engine.config import EngineConfig
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.measure.chunks import Report, cut

# Tokens a decode: logits of 128 tokens are 78 MB where the vocabulary has 152,000.
BLOCK = 128
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Passage(Slice):
    """A slice whose last `wanted` tokens are all asked what comes next."""

    wanted: int = 0

    @property
    def rows(self) -> int:
        return self.wanted


class Reader:
    """A GGUF file, loaded for chunks of `context` tokens. Raises what `Llama` raises.

    `watch` is ggml's eval callback: the `callback` of a `tensors.Watch`.
    """

    def __init__(self, model: Path, context: int, watch: Any = None) -> None:
        # Exact scores are what figures are compared by: flash attention rounds them.
        config = EngineConfig(
            model,
            context=context,
            slots=1,
            step_tokens=min(context, BLOCK),
            step_rows=min(context, BLOCK),
            flash_attention="off",
        )
        self._llama = Llama(config, watch=watch)
        self.vocabulary = self._llama.vocabulary

    def chunks(self, text: str, context: int, limit: int | None) -> list[list[int]]:
        tokens = self._llama.tokenize(text, special=False, start=True)
        return cut(tokens, context, limit, self._llama.start_token)

    def each(self, chunks: list[list[int]], progress: Report) -> Iterator[list[int]]:
        """The chunks one by one; `progress` hears how much of the text is behind them."""
        sizes = [sum(len(self._llama.piece(token)) for token in chunk) for chunk in chunks]
        for number, chunk in enumerate(chunks):
            progress(sum(sizes[:number]), sum(sizes))
            yield chunk
        progress(sum(sizes), sum(sizes))

    def logits(self, tokens: list[int], first: int) -> Iterator[Logits]:
        """What follows each token from number `first` on, in order and block by block.

        Each array has shape (tokens, vocabulary), and the next one overwrites it.
        """
        self._llama.keep(0, 0)
        sequence = Sequence("", tokens, SamplingParams(), slot=0)
        for start in range(0, len(tokens), BLOCK):
            end = min(start + BLOCK, len(tokens))
            wanted = max(0, end - max(start, first))
            rows = self._llama.decode([Passage(sequence, start, end - start, wanted=wanted)])
            if wanted:
                yield rows

    def close(self) -> None:
        self._llama.close()
