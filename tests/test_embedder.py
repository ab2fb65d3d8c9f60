"""Token ids into vectors: turns and batches on a fake encoder, then llama.cpp's own numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import minilm, tiny

from convert import Options, convert
from portable.engine import protocol
from portable.engine.backend import Aborted
from portable.engine.config import EngineConfig
from portable.engine.embedding.embedder import Embedder, Part, normalised
from portable.engine.embedding.kind import kind_of
from portable.engine.embedding.pairs import Pairs
from portable.engine.embedding.pooled import Pooled
from portable.engine.embedding.service import EmbeddingService
from portable.engine.embedding.worker import EmbeddingWorker, at_once
from portable.engine.llama import Llama
from portable.engine.queries import Queries
from portable.engine.sequence import SamplingParams
from portable.engine.service import Service
from portable.engine.threads import Threads
from portable.engine.weights import Weights
from portable.errors import (
    ContextLengthExceeded,
    EngineError,
    InvalidRequest,
    NonFiniteLogits,
    NotEnoughMemory,
    UnsupportedModel,
    WrongModel,
)

WIDTH = 4
BAD = 99  # a token that makes a vector infinite


def vector(tokens: list[int]) -> list[float]:
    """What the fake makes of a text: it tells any wrong, missing or repeated token."""
    return [len(tokens), sum(tokens), sum(at * t for at, t in enumerate(tokens)), tokens[-1]]


class FakeEncoder:
    """A token costs a millisecond. Fails if a part does not go on where its text was left."""

    width, vocabulary = WIDTH, 100

    def __init__(
        self, whole: bool = False, context: int = 64, batch: int = 16, slots: int = 4
    ) -> None:
        self.whole, self.context, self.batch, self.slots = whole, context, batch, slots
        self.cells = context
        self.held: dict[int, list[int]] = {}
        self.batches: list[int] = []
        self.faults: list[Exception] = []
        self.threads: list[int] = []
        self.now = 0.0

    def use_threads(self, count: int) -> None:
        self.threads.append(count)

    def encode(self, parts: list[Part]) -> npt.NDArray[np.float32]:
        if self.faults:
            raise self.faults.pop()
        size = sum(len(part.tokens) for part in parts)
        assert size <= self.batch or (self.whole and len(parts) == 1)
        self.now += size / 1000
        self.batches.append(size)
        rows = []
        for part in parts:
            assert 0 <= part.slot < self.slots and part.tokens
            held = self.held.setdefault(part.slot, [])
            assert part.start == len(held) and (part.ends or not self.whole)
            held += part.tokens
            if part.ends:
                tokens = self.held.pop(part.slot)
                rows.append([np.inf] * WIDTH if BAD in tokens else vector(tokens))
        assert sum(map(len, self.held.values())) <= self.cells
        return np.array(rows, np.float32).reshape(-1, WIDTH)

    def drop(self, slot: int) -> None:
        self.held.pop(slot, None)

    def clock(self) -> float:
        return self.now


def make(encoder: FakeEncoder, seconds: float = 0.016) -> Embedder:
    return Embedder(encoder, seconds, clock=encoder.clock)


def run(embedder: Embedder, most: int = 10_000) -> dict[str, Any]:
    """Step to the end; outcomes in the order in which they came."""
    found: dict[str, Any] = {}
    for _ in range(most):
        if not embedder.has_work:
            return found
        found |= dict(embedder.step())
    raise AssertionError("it never comes to an end")


def texts(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, BAD, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


@pytest.mark.parametrize("whole", [True, False])
def test_every_text_gets_its_own_vector(whole: bool) -> None:
    embedder = make(FakeEncoder(whole))
    asked = {f"r{at}": texts(7, at) for at in range(5)}
    for id, some in asked.items():
        embedder.add(id, some)
    found = run(embedder)
    for id, some in asked.items():
        assert found[id].tolist() == [vector(tokens) for tokens in some]


def test_short_texts_share_a_batch() -> None:
    encoder = FakeEncoder(whole=True, slots=8)
    embedder = make(encoder)
    embedder.add("a", [[1, 2]] * 24)
    run(embedder)
    assert encoder.batches == [16, 16, 16]


def test_a_step_is_as_short_as_asked() -> None:
    encoder = FakeEncoder(batch=512, context=512)
    embedder = make(encoder, seconds=0.02)
    embedder.add("a", [list(range(90)) * 5])
    run(embedder)
    assert max(encoder.batches[1:]) <= 20 and len(encoder.batches) > 20


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    encoder = FakeEncoder(whole=True)
    embedder = make(encoder)
    embedder.add("large", [[1] * 8] * 200)
    embedder.step()
    embedder.add("small", [[2] * 8])
    assert list(run(embedder)) == ["small", "large"]
    assert len(encoder.batches) > 100
    embedder = make(encoder)
    embedder.add("large", [[1] * 8] * 200)
    embedder.add("small", [[2] * 8])
    assert dict(embedder.step()).keys() == {"small"}


@pytest.mark.parametrize("whole", [True, False])
def test_cancelled_requests_leave_nothing(whole: bool) -> None:
    encoder = FakeEncoder(whole)
    embedder = make(encoder)
    for at in range(8):
        embedder.add(f"r{at}", texts(9, at))
    rng = np.random.default_rng(1)
    left = {f"r{at}" for at in range(8)}
    while embedder.has_work:
        if rng.random() < 0.2 and len(left) > 1:
            left.remove(id := sorted(left)[0])
            embedder.cancel(id)
        left -= dict(embedder.step()).keys()
    assert encoder.held == {} and sorted(embedder._free) == [0, 1, 2, 3]


def test_an_interrupted_batch_is_read_again() -> None:
    encoder = FakeEncoder()
    embedder = make(encoder)
    embedder.add("a", [list(range(50))])
    embedder.step()
    encoder.faults.append(Aborted())
    assert run(embedder)["a"].tolist() == [vector(list(range(50)))]


def test_a_broken_model_ends_all_requests() -> None:
    encoder = FakeEncoder()
    embedder = make(encoder)
    embedder.add("a", texts(3))
    embedder.add("b", texts(3))
    embedder.step()
    error = EngineError("broken")
    assert embedder.fail(error) == [("a", error), ("b", error)]
    assert not embedder.has_work and encoder.held == {}


@pytest.mark.parametrize("whole", [True, False])
def test_a_vector_that_is_not_finite_ends_only_its_request(whole: bool) -> None:
    embedder = make(FakeEncoder(whole))
    embedder.add("bad", [[1], [BAD], [2], [3], [4]])
    embedder.add("good", [[1], [2], [3]])
    found = run(embedder)
    assert isinstance(found["bad"], NonFiniteLogits)
    assert found["good"].tolist() == [vector([t]) for t in (1, 2, 3)]


@pytest.mark.parametrize(
    ("tokens", "kind", "says"),
    [
        ([], InvalidRequest, "text 1 is empty"),
        ([1] * 65, ContextLengthExceeded, "text 1 has 65 tokens, this model reads 64"),
        ([100], InvalidRequest, "outside the vocabulary"),
        ([-1], InvalidRequest, "outside the vocabulary"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(
    tokens: list[int], kind: type[InvalidRequest], says: str
) -> None:
    embedder = make(FakeEncoder())
    with pytest.raises(kind, match=says) as error:
        embedder.add("a", [[1], tokens])
    assert error.value.param == "texts[1]" and not embedder.has_work


def test_vectors_are_cut_and_have_length_one() -> None:
    given = np.array([[3, 4, 12], [0, 0, 5]], np.float32)
    assert np.allclose(normalised(given), [[3 / 13, 4 / 13, 12 / 13], [0, 0, 1]])
    assert np.allclose(normalised(given, 2), [[0.6, 0.8], [0, 0]])


def test_threads_make_room_for_other_programs() -> None:
    encoder = FakeEncoder()
    embedder = Embedder(encoder, 0.016, Threads(2, 2, lambda at: 0.5), encoder.clock)
    embedder.add("a", texts(50))
    run(embedder)
    assert set(encoder.threads) == {1, 2} and len(encoder.threads) == len(encoder.batches)


# --- the thread ---


class Outcomes(dict[str, Any]):
    """What a worker delivered, by id."""

    def __init__(self) -> None:
        self._came = threading.Condition()

    def put(self, outcome: tuple[str, Any]) -> None:
        with self._came:
            self[outcome[0]] = outcome[1]
            self._came.notify_all()

    def wait(self, id: str) -> Any:
        with self._came:
            assert self._came.wait_for(lambda: id in self, 20), f"nothing came for {id}"
            return self[id]


def test_a_worker_outlives_errors_and_cancels() -> None:
    encoder, outcomes = FakeEncoder(), Outcomes()
    worker = EmbeddingWorker(lambda: make(encoder), at_once, outcomes.put)
    worker.submit("empty", [[]])
    assert isinstance(outcomes.wait("empty"), InvalidRequest)
    encoder.faults.append(RuntimeError("a defect"))
    worker.submit("unlucky", [[1]])
    assert "a defect" in str(outcomes.wait("unlucky"))
    worker.cancel("nobody")
    worker.submit("a", [[1, 2]])
    assert outcomes.wait("a").tolist() == [vector([1, 2])]
    assert worker.steps == 1
    worker.close()


def test_what_cannot_be_made_is_tried_again() -> None:
    outcomes, tries = Outcomes(), iter([EngineError("no memory"), None])

    def once() -> Embedder:
        if error := next(tries):
            raise error
        return make(FakeEncoder())

    worker = EmbeddingWorker(once, at_once, outcomes.put)
    worker.submit("a", [[1]])
    assert str(outcomes.wait("a")) == "no memory"
    worker.submit("b", [[1]])
    assert len(outcomes.wait("b")) == 1
    worker.close()


# --- llama.cpp ---

SENTENCES = [
    "A cat sits on the mat.",
    "A kitten rests on a rug.",
    "The stock market fell sharply today.",
    "你好，世界",
    "This is a longer text, with punctuation: (a) one; (b) two — and an emoji 🤗. " * 10,
]
# transformers' BertModel of the same folder: mean of the last layer, length 1, first numbers.
REFERENCE = [
    [0.12654, -0.03285, -0.02906, 0.04441, -0.04345, 0.0321, 0.04811, 0.02768],
    [0.07445, 0.01457, 0.01902, 0.06607, -0.03507, 0.06705, 0.00006, 0.00325],
    [0.06045, 0.00545, 0.07657, 0.05383, -0.01479, -0.0061, -0.02938, 0.05372],
    [-0.03498, 0.13873, 0.03337, -0.01275, 0.03406, 0.0105, 0.04894, -0.00882],
    [-0.00012, 0.03715, 0.12579, -0.06411, 0.01616, -0.01629, 0.01979, -0.01582],
]
TOKENS = [9, 9, 9, 7, 282]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tiny GGUF files by family, and the real MiniLM; each made once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def model(family: str, **options: Any) -> Path:
        key = family + "".join(f"-{value}" for value in options.values())
        if key not in made:
            source = minilm() if family == "minilm" else tiny(folder / key, family, **options)
            name = "Qwen3-Reranker" if family == "qwen3_reranker" else None
            settings = Options(quant="F32", name=name)
            made[key] = convert(source, folder / f"{key}.gguf", settings).path
        return made[key]

    return model


def config(path: Path, **options: Any) -> EngineConfig:
    return EngineConfig(path, threads=1, **options)


def encoded(path: Path, asked: list[list[int]], seconds: float = 10, **options: Any) -> Any:
    """Vectors by a fresh context, unscaled."""
    weights = Weights(settings := config(path, **options))
    embedder = Embedder(Pooled(weights, settings), seconds)
    embedder.add("a", asked)
    found = run(embedder)["a"]
    weights.close()
    return found


def cosines(one: Any, other: Any) -> Any:
    return (normalised(one) * normalised(other)).sum(axis=1)


@pytest.fixture
def queries(models: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """Ask a model; the answer, or the error's code and message."""
    closing: list[Any] = []

    def ask(path: Path, what: protocol.Ask, **options: Any) -> Any:
        settings = config(path, **options)
        generates = kind_of(settings).task == "generate"
        service = Service(settings, lambda _: None) if generates else EmbeddingService(settings)
        came = Outcomes()
        asked = Queries(service, lambda event: came.put((event.id, event)))  # type: ignore[union-attr]
        closing.extend((asked.close, service.close))
        asked.ask(protocol.Query("q", what))
        event = came.wait("q")
        assert asked.unfinished == 0
        if isinstance(event, protocol.Result):
            return event.answer
        raise protocol.as_error(event)

    yield ask
    for close in closing:
        close()


def vectors_of(answer: protocol.Vectors) -> Any:
    return np.frombuffer(answer.data, np.float32).reshape(-1, answer.width)


def test_minilm_says_what_sentence_transformers_says(
    models: Callable[..., Path], queries: Callable[..., Any]
) -> None:
    answer = queries(models("minilm"), protocol.Embed(list(SENTENCES)))
    rows = vectors_of(answer)
    assert answer.tokens == TOKENS and rows.shape == (5, 384)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.abs(rows[:, :8] - REFERENCE).max() < 2e-3
    assert rows[0] @ rows[1] == pytest.approx(0.665, abs=2e-3)
    assert rows[0] @ rows[2] == pytest.approx(0.091, abs=2e-3)


@pytest.mark.parametrize(
    ("family", "task", "pooling", "whole"),
    [
        ("minilm", "embed", "mean", True),
        ("xlm_roberta", "embed", "cls", True),
        ("nomic_bert", "embed", "cls", True),
        ("xlm_roberta_classifier", "rerank", "rank", True),
        ("qwen3_embedding", "embed", "last", False),
        ("qwen3_reranker", "rerank", "rank", False),
        ("qwen2", "generate", "mean", False),
    ],
)
def test_texts_together_and_in_pieces_give_what_they_give_alone(
    family: str, task: str, pooling: str, whole: bool, models: Callable[..., Path]
) -> None:
    path = models(family)
    assert kind_of(config(path)) == (task, pooling)
    weights = Weights(settings := config(path))
    pooled = Pooled(weights, settings)
    assert (pooled.pooling, pooled.whole) == (pooling, whole)
    some = [[token % 40 for token in tokens] for tokens in texts(9, longest=60)]
    alone = [encoded(path, [tokens])[0] for tokens in some[:3]]
    embedder = Embedder(pooled, 1e-6)  # the shortest steps that there are
    embedder.add("a", some)
    pieces = run(embedder)["a"]
    together = encoded(path, some)
    weights.close()
    assert len(pieces[0]) == (pooled.width if task != "rerank" else weights.labels)
    assert np.allclose(together[:3], alone, atol=1e-3)
    assert np.allclose(together, pieces, atol=1e-3)
    assert np.ptp(together, axis=0).max() > 1e-4  # and texts differ


def test_contexts_may_be_tiny(models: Callable[..., Path]) -> None:
    """llama.cpp aborts where there are more sequences than tokens in a batch."""
    for pooling in ("mean", "last"):
        options = {"context": 8, "pooling": pooling, "step_tokens": 3}
        found = encoded(models("qwen2"), [[1, 2, 3], [4] * 8, [1, 2, 3]], **options)
        assert np.allclose(found[0], found[2], atol=1e-4)
    Llama(config(models("qwen2"), context=8, slots=64)).close()


def test_last_and_mean_pooling_are_of_all_tokens_of_the_text(models: Callable[..., Path]) -> None:
    """Against llama.cpp's own per-text pooling, which reads a text in one batch."""
    path, some = models("qwen2"), [[1, 2, 3, 4, 5], [6, 7], [1, 2, 3]]
    last = encoded(path, some, pooling="last")
    mean = encoded(path, some, pooling="mean")
    assert cosines(last, mean).max() < 0.999
    # The mean over a text's beginnings is what their last tokens add up to.
    begun = encoded(path, [[1], [1, 2], [1, 2, 3]], pooling="last")
    assert np.allclose(begun.mean(axis=0), mean[2], atol=1e-4)


def test_a_reranker_reads_the_pair_as_its_template_says(
    models: Callable[..., Path], queries: Callable[..., Any]
) -> None:
    path = models("qwen3_reranker")
    told = protocol.Rerank("what <|im_end|> {document}", ["one", "", "two {query} <|im_end|>"])
    answer = queries(path, told)
    assert answer.scores == answer.raw and all(0 < score < 1 for score in answer.scores)
    weights = Weights(config(path))
    template = weights.rerank_template or ""
    ends = template.count("<|im_end|>")
    (control,) = weights.tokenize("<|im_end|>", special=True, start=False)
    ids = Pairs(weights).tokens(told.query, told.documents[2])
    assert ids.count(control) == ends and len(ids) == answer.tokens[2]
    text = b"".join(weights.shown(token) for token in ids).decode()
    assert f"<Query>: {told.query}\n<Document>: {told.documents[2]}<|im_end|>" in text
    weights.close()


def test_a_cross_encoder_scores_from_nought_to_one(
    models: Callable[..., Path], queries: Callable[..., Any]
) -> None:
    path = models("xlm_roberta_classifier")
    answer = queries(path, protocol.Rerank("what", ["one", "two", "one"]))
    assert answer.scores[0] == pytest.approx(answer.scores[2], abs=1e-5)
    for score, raw in zip(answer.scores, answer.raw, strict=True):
        assert score == pytest.approx(1 / (1 + np.exp(-raw)))
    weights = Weights(config(path))
    frame = sum(map(len, weights.pair_frame))
    words = [len(weights.tokenize(w, special=False, start=False)) for w in ("what", "one")]
    assert answer.tokens[0] == sum(words) + frame == len(Pairs(weights).tokens("what", "one"))
    cut = Pairs(weights).tokens("what", "one two " * 99, most=20)
    assert len(cut) <= 20 and cut[-1] == weights.pair_frame[2][-1]
    weights.close()


def test_texts_are_cut_only_when_that_is_asked_for(
    models: Callable[..., Path], queries: Callable[..., Any]
) -> None:
    path, long = models("minilm"), "word " * 600
    with pytest.raises(ContextLengthExceeded, match="text 1 has 602 tokens, this model reads 512"):
        queries(path, protocol.Embed(["a", long]))
    with pytest.raises(ContextLengthExceeded, match="has 60000 bytes"):
        queries(path, protocol.Embed(["ä" * 30_000]))
    answer = queries(path, protocol.Embed(["a", long, "word " * 510], truncate=True))
    assert answer.tokens == [3, 512, 512]
    rows = vectors_of(answer)
    assert np.allclose(rows[1], rows[2], atol=1e-5)  # the end token was kept
    answer = queries(path, protocol.Embed(["a"], dimensions=10))
    assert np.allclose(vectors_of(answer), normalised(rows[:1], 10), atol=1e-4)
    for dimensions in (0, 385):
        with pytest.raises(InvalidRequest, match="vectors of 384 numbers") as error:
            queries(path, protocol.Embed(["a"], dimensions=dimensions))
        assert error.value.param == "dimensions"


@pytest.mark.parametrize(
    ("family", "ask", "says"),
    [
        ("minilm", protocol.Rerank("a", ["b"]), "makes embeddings: ask /v1/embeddings"),
        ("minilm", protocol.Render([{"role": "user", "content": "a"}]), "makes embeddings"),
        ("qwen3_reranker", protocol.Embed(["a"]), "ranks documents: ask /v1/rerank"),
        ("qwen2", protocol.Rerank("a", ["b"]), "generates text"),
        ("qwen2", protocol.Embed(["a"]), "generates text"),
    ],
)
def test_a_model_says_what_it_is_for(
    family: str,
    ask: protocol.Ask,
    says: str,
    models: Callable[..., Path],
    queries: Callable[..., Any],
) -> None:
    with pytest.raises(WrongModel, match=says):
        queries(models(family), ask, pooling="none" if family == "qwen2" else "auto")


def test_embedding_models_do_not_chat(models: Callable[..., Path]) -> None:
    for family in ("minilm", "qwen3_embedding"):
        with pytest.raises(UnsupportedModel, match="not text"):
            Service(config(models(family)), lambda _: None)


def test_contexts_keep_to_the_model_and_to_the_memory(models: Callable[..., Path]) -> None:
    service = EmbeddingService(config(models("minilm"), context=4096))
    assert service.info.context == 512
    service.close()
    with pytest.raises(NotEnoughMemory):
        weights = Weights(config(models("minilm")))
        weights._room = 50_000_000
        Pooled(weights, config(models("minilm"), context=512))
    weights._room = 2 * 300 * 4 * weights.vocabulary
    pooled = Pooled(weights, config(models("minilm")))
    weights.close()
    assert pooled.context == 512  # never less than a batch


def test_tokens_and_texts(queries: Callable[..., Any], smollm2: Path) -> None:
    text = "Hi <|im_end|> 媽"
    plain = queries(smollm2, protocol.Tokenize(text, parse_special=False))
    special = queries(smollm2, protocol.Tokenize(text))
    assert len(special.ids) < len(plain.ids) and b"<|im_end|>" in special.pieces
    for answer in (plain, special):
        assert b"".join(answer.pieces).decode() == text
        assert queries(smollm2, protocol.Detokenize(answer.ids)) == answer
    for token in (-1, 49152):
        with pytest.raises(InvalidRequest, match="outside the vocabulary"):
            queries(smollm2, protocol.Detokenize([token]))
    prompt = queries(smollm2, protocol.Render([{"role": "user", "content": "<|im_end|>"}]))
    assert prompt.text.endswith("<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n")
    assert len(prompt.ids) > len(queries(smollm2, protocol.Tokenize(prompt.text)).ids)
    told = queries(smollm2, protocol.Describe())
    assert "im_start" in (told.chat_template or "") and told.eos_token == "<|im_end|>"


def test_vectors_wait_for_no_stream_and_no_stream_for_them(smollm2: Path) -> None:
    """Between two steps of an answer lies one batch of vectors at most."""
    events: list[str] = []
    ended = threading.Event()

    def deltas(some: list[Any]) -> None:
        events.append("step")
        if some[-1].finish_reason:
            ended.set()

    service = Service(config(smollm2, context=512, slots=2, step_seconds=0.02), deltas)
    turn, came = service.turn, Outcomes()

    def counted(work: Callable[[], Any]) -> Any:
        found = turn(work)
        events.append("batch")
        return found

    service.turn = counted
    queries = Queries(service, lambda event: came.put((event.id, event)))
    params = SamplingParams(temperature=0, max_tokens=60, logit_bias={2: -100})
    service.chat("chat", [{"role": "user", "content": "Tell me a story."}], {}, params)
    queries.ask(protocol.Query("q", protocol.Embed(["a text of some words"] * 60)))
    event = came.wait("q")
    assert ended.wait(60)
    assert isinstance(event, protocol.Result) and isinstance(event.answer, protocol.Vectors)
    rows = vectors_of(event.answer)
    assert rows.shape == (60, 576) and np.allclose(rows[0], rows[-1], atol=1e-4)
    during = "".join(name[0] for name in events[events.index("batch") :])
    during = during[: during.rindex("s")]
    assert during.count("b") > 5 and "bbb" not in during, during
    queries.close()
    service.close()
