"""/v1/embeddings and /v1/rerank as clients use them, on real and on tiny models."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from checkpoints import minilm, tiny
from serving import Server, asking, check_error, cli, running, until

from convert import Options, convert

EMBEDDINGS = "/v1/embeddings"
CAT, KITTEN, STOCKS = (
    "A cat sits on the mat.",
    "A kitten rests on a rug.",
    "The stock market fell sharply today.",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    convert(minilm(), folder / "minilm.gguf", Options(quant="Q8_0"))
    for family, name in (("xlm_roberta_classifier", None), ("qwen3_reranker", "Qwen3-Reranker")):
        made = tiny(folder / family, family)
        convert(made, folder / f"{family}.gguf", Options(quant="F32", name=name))
    return folder


@pytest.fixture(scope="module")
def encoder(files: Path) -> Iterator[Server]:
    with running({"model": str(files / "minilm.gguf")}, names=("minilm",)) as made:
        yield made


@pytest.fixture(scope="module")
def reranker(files: Path) -> Iterator[Server]:
    with running({"model": str(files / "xlm_roberta_classifier.gguf")}, names=("bge",)) as made:
        yield made


def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0)


def vectors(server: Server, **fields: Any) -> Any:
    response = server.post(EMBEDDINGS, fields)
    assert response.status_code == 200, response.text
    return np.array([one["embedding"] for one in response.json()["data"]])


def test_openai_clients_get_the_same_vectors_in_both_formats(encoder: Server) -> None:
    with client(encoder) as openai_client:
        asked: Any = {"model": "minilm", "input": [CAT, KITTEN, STOCKS]}
        default = openai_client.embeddings.create(**asked)  # asks for base64
        plain = openai_client.embeddings.create(**asked, encoding_format="float")
    assert [one.index for one in default.data] == [0, 1, 2]
    assert default.usage.prompt_tokens == default.usage.total_tokens == 27
    rows = np.array([one.embedding for one in default.data])
    assert np.allclose(rows, [one.embedding for one in plain.data], atol=1e-6)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    likeness = rows @ rows.T
    assert likeness[0, 1] > 0.6 > 0.3 > likeness[0, 2]
    assert default.model == "minilm"
    assert "x-portable-warning" not in encoder.post(EMBEDDINGS, asked).headers


def test_what_was_read_is_counted(encoder: Server) -> None:
    def counted() -> float:
        lines = encoder.get("/metrics").text.splitlines()
        found = [line for line in lines if "prompt_tokens_total{" in line and "minilm" in line]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0

    before = counted()
    assert encoder.post(EMBEDDINGS, {"input": [CAT, KITTEN]}).json()["usage"]["total_tokens"] == 18
    assert counted() == before + 18


def test_base64_is_little_endian_float32(encoder: Server) -> None:
    body = {"input": CAT, "encoding_format": "base64"}
    text = encoder.post(EMBEDDINGS, body).json()["data"][0]["embedding"]
    found = np.frombuffer(base64.b64decode(text), "<f4")
    assert np.allclose(found, vectors(encoder, input=CAT)[0], atol=1e-6)


def test_every_form_of_input_is_read(encoder: Server) -> None:
    ids = encoder.post("/tokenize", {"content": CAT, "add_special": True}).json()["tokens"]
    (one,) = vectors(encoder, input=CAT)
    for given in ([CAT], ids, [ids], [CAT, KITTEN], [ids, KITTEN]):
        assert np.allclose(vectors(encoder, input=given)[0], one, atol=2e-3)
    assert len(vectors(encoder, input="")) == 1
    assert encoder.post("/embeddings", {"input": CAT}).status_code == 200


def test_the_order_of_many_texts_is_kept(encoder: Server) -> None:
    texts = [f"{'word ' * (at % 40)}{at}" for at in range(120)]
    together = vectors(encoder, input=texts)
    for at in (0, 1, 39, 80, 119):
        (alone,) = vectors(encoder, input=texts[at])
        assert alone @ together[at] > 0.999


def test_vectors_can_be_shorter(encoder: Server) -> None:
    (whole,) = vectors(encoder, input=CAT)
    (cut,) = vectors(encoder, input=CAT, dimensions=64)
    assert np.allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({}, "input", "missing"),
        ({"input": []}, "input", "1 to 2048"),
        ({"input": ["a"] * 2049}, "input", "not 2049"),
        ({"input": ["a", 1.5]}, "input[1]", "a text"),
        ({"input": ["a", []]}, "input[1]", "a text"),
        ({"input": [1, "a"]}, "input[0]", "a text"),
        ({"input": {"content": "a"}}, "input", "Expected"),
        ({"input": ["a", [10**6]]}, "input[1]", "vocabulary"),
        ({"input": ["a", "word " * 600]}, "input[1]", "602 tokens, this model reads 512"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "Invalid"),
        ({"input": "a", "dimensions": 0}, "dimensions", ">= 1"),
        ({"input": "a", "dimensions": 385}, "dimensions", "384"),
    ],
)
def test_wrong_fields_are_named(
    encoder: Server, fields: dict[str, Any], param: str, says: str
) -> None:
    error = check_error(encoder.post(EMBEDDINGS, fields), 400)
    assert error["param"] == param and says in error["message"]


def test_a_text_is_cut_when_the_client_says_so(encoder: Server) -> None:
    body = {"input": "word " * 600, "truncate": True}
    assert encoder.post(EMBEDDINGS, body).json()["usage"]["prompt_tokens"] == 512


def test_an_embedding_model_says_what_it_is_for(encoder: Server) -> None:
    for path, body in (
        ("/v1/chat/completions", asking()),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ):
        error = check_error(encoder.post(path, body), 400, "model")
        assert error["code"] == "model_not_supported" and EMBEDDINGS in error["message"]
    assert encoder.get("/props").json()["task"] == "embed"


def test_a_model_that_chats_embeds_with_a_warning() -> None:
    with running({"context": 512}) as server:
        response = server.post(EMBEDDINGS, {"input": [CAT, STOCKS]})
        assert "not trained" in response.headers["x-portable-warning"]
        assert len(response.json()["data"][1]["embedding"]) == 576
        assert server.chat().status_code == 200


def test_that_can_be_refused() -> None:
    with running({"context": 512, "pooling": "none"}) as server:
        error = check_error(server.post(EMBEDDINGS, {"input": CAT}), 400, "model")
        assert error["code"] == "model_not_supported"


def test_the_command_line_serves_an_encoder(files: Path) -> None:
    second = ("--model", str(files / "xlm_roberta_classifier.gguf"))
    told = ("--port", "0", "--threads", "1", "--parallel", "2", "--kv-type", "q8_0")
    with cli(str(files / "minilm.gguf"), *second, *told) as it:
        until(it.is_ready, 60)
        assert it.meta()["n_ctx"] == 512 and it.meta()["task"] == "embed"
        assert len(vectors(it, input=["a"] * 20)) == 20
        asked = {"model": "xlm_roberta_classifier", "query": QUERY, "documents": DOCUMENTS}
        assert len(it.post("/v1/rerank", asked).json()["results"]) == 4


def test_a_client_that_leaves_takes_its_texts_along(encoder: Server) -> None:
    with pytest.raises(openai.APITimeoutError), client(encoder) as openai_client:
        texts = ["word " * 500] * 400
        openai_client.with_options(timeout=0.5).embeddings.create(model="minilm", input=texts)
    encoder.wait_idle()


def test_a_model_that_dies_fails_the_request_and_comes_back(files: Path) -> None:
    with running({"model": str(files / "minilm.gguf")}, names=("minilm",)) as server:
        texts, answers = ["word " * 500] * 400, []
        asking = threading.Thread(
            target=lambda: answers.append(server.post(EMBEDDINGS, {"input": texts}))
        )
        asking.start()
        until(lambda: server.meta()["running"] == 1)
        server.child.kill()
        until(lambda: server.meta()["restarts"] == 1 and server.meta()["running"] == 1, 30)
        server.child.kill()  # sent once more, and no third time
        asking.join(60)
        error = check_error(answers[0], 500)
        assert error["code"] == "backend_error"
        until(server.is_ready, 30)
        assert len(vectors(server, input=CAT)) == 1


# --- rerank ---

QUERY, DOCUMENTS = "what is a cat", ["one", "two three", "four", "two three"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
def test_documents_come_best_first(reranker: Server, path: str) -> None:
    body = reranker.post(path, {"query": QUERY, "documents": DOCUMENTS}).json()
    assert body["object"] == "list" and body["model"] == "bge"
    scores = [one["relevance_score"] for one in body["results"]]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
    by_index = {one["index"]: one["relevance_score"] for one in body["results"]}
    assert set(by_index) == {0, 1, 2, 3} and by_index[1] == pytest.approx(by_index[3], abs=1e-6)
    usage = body["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] > 4 * len(QUERY.split())


def test_only_the_best_with_their_texts(reranker: Server) -> None:
    given = [{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]]
    asked = {"query": QUERY, "documents": given, "top_n": 2, "return_documents": True}
    results = reranker.post("/rerank", asked).json()["results"]
    assert len(results) == 2
    for one in results:
        assert one["document"] == {"text": DOCUMENTS[one["index"]]}
    asked["top_n"] = 99
    assert len(reranker.post("/rerank", asked).json()["results"]) == 4


def test_the_shape_of_text_embeddings_inference(reranker: Server) -> None:
    asked = {"query": QUERY, "texts": DOCUMENTS, "return_text": True}
    found = reranker.post("/rerank", asked).json()
    assert [one["text"] for one in found] == [DOCUMENTS[one["index"]] for one in found]
    raw = reranker.post("/rerank", asked | {"raw_scores": True, "top_n": 1}).json()
    assert len(raw) == 1 and raw[0]["index"] == found[0]["index"]
    assert found[0]["score"] == pytest.approx(1 / (1 + np.exp(-raw[0]["score"])))


def test_a_qwen3_reranker_ranks(files: Path) -> None:
    with running({"model": str(files / "qwen3_reranker.gguf")}, names=("qwen",)) as server:
        body = server.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}).json()
        assert len(body["results"]) == 4
        error = check_error(server.post(EMBEDDINGS, {"input": CAT}), 400, "model")
        assert "/v1/rerank" in error["message"]
        long = {"query": QUERY, "documents": ["one", "two " * 600]}
        error = check_error(server.post("/v1/rerank", long), 400, "documents[1]")
        assert error["code"] == "context_length_exceeded"
        long["truncate"] = True
        assert server.post("/v1/rerank", long).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": 123}, "documents"),
        ({"query": "a", "documents": [1, 2]}, "documents"),
        ({"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
        ({"query": 1, "documents": ["b"]}, "query"),
        ({"query": "a" * 10_000, "documents": ["b"]}, "query"),
    ],
)
def test_wrong_fields_of_rerank_are_named(
    reranker: Server, fields: dict[str, Any], param: str
) -> None:
    check_error(reranker.post("/v1/rerank", fields), 400, param)
