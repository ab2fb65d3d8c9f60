"""A query and a document -> what a reranker reads; texts and no decoding."""

from __future__ import annotations

import re

from portable.engine.template import control_pattern, marked, segments
from portable.engine.vocabulary import Vocabulary


class Pairs:
    """By the model's own rerank template, else query and document framed by separators."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._template = vocabulary.rerank_template
        self._control = control_pattern(vocabulary.control_texts)

    def tokens(self, query: str, document: str, most: int | None = None) -> list[int]:
        """The pair as token ids; with `most` a document that is too long loses its end."""
        ids = self._tokens(query, document)
        while most is not None and len(ids) > most and document:
            # By its share of the tokens, and always shorter than before.
            document = document[: min(len(document) - 1, len(document) * most // len(ids))]
            ids = self._tokens(query, document)
        return ids

    def _tokens(self, query: str, document: str) -> list[int]:
        tokenize = self._vocabulary.tokenize
        if not self._template:
            before, between, after = self._vocabulary.pair_frame
            texts = [tokenize(text, special=False, start=False) for text in (query, document)]
            return [*before, *texts[0], *between, *texts[1], *after]
        # In one pass, so that a query that says {document} is a text like any other.
        given = {"{query}": query, "{document}": document}
        parts = re.split("({query}|{document})", self._template)
        prompt = [marked(given[p], self._control) if p in given else p for p in parts]
        ids: list[int] = []
        for text, special in segments("".join(prompt)):
            ids += tokenize(text, special=special, start=False)
        return ids
