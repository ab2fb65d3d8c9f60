"""Answers what is asked of a model beside generation: vectors, scores, tokens, prompts."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from portable.engine import protocol, thought
from portable.engine.backend import ModelInfo
from portable.engine.embedding.embedder import Embedder, Outcome, normalised
from portable.engine.embedding.kind import wrong_model
from portable.engine.embedding.pairs import Pairs
from portable.engine.embedding.worker import EmbeddingWorker, Turn
from portable.engine.prompt import MAX_BYTES_A_TOKEN, Prompter
from portable.engine.template import plain
from portable.engine.weights import Weights
from portable.errors import ContextLengthExceeded, InvalidRequest, PortableError, WrongModel

if TYPE_CHECKING:
    from portable.engine.embedding.embedder import Vectors

Finish = Callable[["Vectors"], protocol.Answer]


class Serving(Protocol):
    """A loaded model, as far as queries go. `turn` runs what decodes."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def weights(self) -> Weights: ...

    @property
    def turn(self) -> Turn: ...

    @property
    def prompter(self) -> Prompter | None: ...

    def embedder(self) -> Embedder:
        """Called when vectors are first wanted, in a thread of its own. Raises WrongModel if this
        model makes none, and what making it raises: then it is called again the next time."""


class Queries:
    """Any thread may call; `send` is called in threads of its own, once for each query."""

    def __init__(self, service: Serving, send: Callable[[protocol.Event], None]) -> None:
        self._service = service
        self._weights = service.weights
        self._send = send
        self._threads = ThreadPoolExecutor(2, "query")
        self._lock = threading.Lock()
        self._wanted: dict[str, Finish | None] = {}
        self._worker = EmbeddingWorker(service.embedder, service.turn, self._deliver)

    @functools.cached_property
    def _pairs(self) -> Pairs:
        return Pairs(self._weights)  # it looks at the whole vocabulary

    @property
    def steps(self) -> int:
        """Batches of vectors so far."""
        return self._worker.steps

    @property
    def unfinished(self) -> int:
        return len(self._wanted)

    def ask(self, query: protocol.Query) -> None:
        self._wanted[query.id] = None
        self._threads.submit(self._answer, query)

    def cancel(self, id: str) -> None:
        """Unknown ids are ignored."""
        with self._lock:
            self._wanted.pop(id, None)
            self._worker.cancel(id)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._worker.close()

    def _answer(self, query: protocol.Query) -> None:
        if query.id not in self._wanted:
            return
        try:
            if isinstance(query.ask, protocol.Embed):
                self._embed(query.id, query.ask)
            elif isinstance(query.ask, protocol.Rerank):
                self._rerank(query.id, query.ask)
            else:
                self._done(query.id, protocol.Result(query.id, self._at_once(query.ask)))
        except Exception as error:
            self._done(query.id, protocol.failed(query.id, error))

    def _at_once(self, ask: protocol.Ask) -> protocol.Answer:
        """What needs no decoding."""
        weights = self._weights
        match ask:
            case protocol.Tokenize():
                self._check_bytes(ask.text, "the text", "content")
                special, start = ask.parse_special, ask.add_special
                return self._tokens(weights.tokenize(ask.text, special=special, start=start))
            case protocol.Detokenize():
                return self._tokens(ask.tokens)
            case protocol.Render():
                prompter = self._prompter()
                prompt = prompter.render(ask.messages, ask.options)
                rendered = prompter.parse(prompt)
                ids, _ = thought.begin(rendered, ask.thinking, ask.begun, weights)
                begun = thought.text_of(weights, ids[len(rendered) :])
                return protocol.Prompt(plain(prompt) + begun, ids)
            case _:
                template, bos, eos = weights.chat_template, weights.bos_text, weights.eos_text
                return protocol.Description(template, bos, eos)

    def _prompter(self) -> Prompter:
        if self._service.prompter is None:
            raise wrong_model(self._service.info.task)
        return self._service.prompter

    def _tokens(self, ids: list[int]) -> protocol.Tokens:
        if not all(0 <= token < self._weights.vocabulary for token in ids):
            raise InvalidRequest("a token id is outside the vocabulary", param="tokens")
        return protocol.Tokens(ids, [self._weights.shown(token) for token in ids])

    # --- vectors ---

    def _embed(self, id: str, ask: protocol.Embed) -> None:
        info, width = self._service.info, self._weights.width
        if info.task == "rerank":
            raise wrong_model(info.task)
        if ask.dimensions is not None and not 1 <= ask.dimensions <= width:
            raise InvalidRequest(
                f"dimensions: this model makes vectors of {width} numbers, not {ask.dimensions}",
                param="dimensions",
            )
        texts = [self._text(text, at, ask.truncate) for at, text in enumerate(ask.texts)]

        def finish(vectors: Vectors) -> protocol.Answer:
            rows = normalised(vectors, ask.dimensions)
            return protocol.Vectors(
                rows.astype("<f4").tobytes(), rows.shape[1], list(map(len, texts))
            )

        self._submit(id, texts, finish)

    def _rerank(self, id: str, ask: protocol.Rerank) -> None:
        info = self._service.info
        if info.task != "rerank":
            raise wrong_model(info.task)
        # Of Qwen3 rerankers llama.cpp makes probabilities, the first of which is "yes".
        if self._weights.labels > 1 and not info.architecture.startswith("qwen3"):
            raise WrongModel(
                f"this model tells {self._weights.labels} classes apart and scores no documents",
                hint="choose a reranker",
                param="model",
            )
        self._check_bytes(ask.query, "the query", "query")
        most = info.context if ask.truncate else None
        texts = [
            self._pairs.tokens(ask.query, self._short(document, at, ask.truncate), most)
            for at, document in enumerate(ask.documents)
        ]

        def finish(vectors: Vectors) -> protocol.Answer:
            raw = [float(value) for value in vectors[:, 0]]
            scores = raw if vectors.shape[1] > 1 else [_sigmoid(value) for value in raw]
            return protocol.Scores(scores, raw, list(map(len, texts)))

        self._submit(id, texts, finish)

    def _submit(self, id: str, texts: list[list[int]], finish: Finish) -> None:
        with self._lock:
            if id in self._wanted:
                self._wanted[id] = finish
                self._worker.submit(id, texts)

    def _text(self, text: str | list[int], at: int, truncate: bool) -> list[int]:
        most = self._service.info.context
        if isinstance(text, str):
            short = self._short(text, at, truncate)
            text = self._weights.tokenize(short, special=True, start=True)
        if len(text) <= most or not truncate:
            return text
        # What the model itself puts at the end stays there.
        end = text[-1:] if self._weights.is_control(text[-1]) else []
        return text[: most - len(end)] + end

    def _short(self, text: str, at: int, truncate: bool) -> str:
        """Not longer than what could fit. Raises ContextLengthExceeded unless it may be cut."""
        if truncate:
            return text[: self._service.info.context * MAX_BYTES_A_TOKEN]
        self._check_bytes(text, f"text {at}", f"texts[{at}]")
        return text

    def _check_bytes(self, text: str, name: str, param: str) -> None:
        """Refuse, before its tokens are counted, what cannot fit: that takes too long."""
        size, most = len(text.encode("utf-8")), self._service.info.context
        if size > most * MAX_BYTES_A_TOKEN:
            raise ContextLengthExceeded(
                f"{name} has {size} bytes, this model reads {most} tokens",
                hint="send it in parts",
                param=param,
            )

    # --- answers ---

    def _deliver(self, outcome: Outcome) -> None:
        id, found = outcome
        finish = self._wanted.get(id)
        if finish is None:  # cancelled
            return
        if isinstance(found, PortableError):
            self._done(id, protocol.failed(id, found))
        else:
            self._done(id, protocol.Result(id, finish(found)))

    def _done(self, id: str, event: protocol.Event) -> None:
        with self._lock:
            wanted = id in self._wanted
            self._wanted.pop(id, None)
        if wanted:
            self._send(event)


def _sigmoid(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))
