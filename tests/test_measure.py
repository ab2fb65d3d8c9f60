"""What models do to texts, held against llama-imatrix and llama-perplexity (tests/golden)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpoints import tiny
from ggufs import Gguf
from measure_cases import CHUNKS, CONTEXT, FAMILIES, TEXT, models

from convert import Options, convert
from convert.imatrix import read_imatrix, write_imatrix
from portable.errors import EngineError, NonFiniteLogits, UnsupportedModel, UsageError
from portable.measure import evaluate, make_imatrix, read_text, tensors
from portable.measure.chunks import cut
from portable.measure.imatrix import dense_sums, expert_sums
from portable.measure.perplexity import compared, log_softmax

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    base, model = models(tmp_path_factory.mktemp("pair"), request.param)
    return SimpleNamespace(family=request.param, base=base, model=model)


def test_the_matrix_is_llama_imatrix_s(pair: Any, tmp_path: Path) -> None:
    seen = []
    made = make_imatrix(
        pair.base,
        TEXT,
        "text.txt",
        context=CONTEXT,
        chunks=CHUNKS,
        progress=lambda done, count: seen.append((done, count)),
    )
    total = len(TEXT.encode())
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) == CHUNKS + 1 and seen[-1][0] == seen[-1][1] < total
    write_imatrix(made, tmp_path / "ours.gguf")
    ours, theirs = Gguf(tmp_path / "ours.gguf"), Gguf(GOLDEN / f"{pair.family}-imatrix.bin")
    assert ours.keys == theirs.keys
    assert list(ours.tensors) == list(theirs.tensors)
    for name, tensor in theirs.tensors.items():
        found = ours.tensors[name]
        assert (found.shape, found.type) == (tensor.shape, tensor.type)
        values = [np.frombuffer(t.data, np.float32) for t in (found, tensor)]
        np.testing.assert_allclose(*values, rtol=2e-3, err_msg=name)


def test_the_figures_are_llama_perplexity_s(pair: Any) -> None:
    found = evaluate(pair.model, TEXT, base=pair.base, context=CONTEXT, chunks=CHUNKS)
    assert (found.chunks, found.context, found.tokens) == (5, 64, 5 * 31)
    assert found.divergence and not found.skipped
    ours = {"perplexity": asdict(found.perplexity), **asdict(found.divergence)}
    theirs = json.loads((GOLDEN / "perplexity.json").read_text())[pair.family]
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        here = list(ours[name].values()) if isinstance(ours[name], dict) else [ours[name]]
        scale = 100 if name == "same_top" else 1  # llama.cpp says it in per cent
        # llama.cpp keeps the base's logits in 16 bits, and prints six digits.
        np.testing.assert_allclose(np.multiply(here, scale), wanted, 4e-3, 2e-6, err_msg=name)


def test_a_model_does_not_diverge_from_itself(pair: Any) -> None:
    found = evaluate(pair.model, TEXT, base=pair.model, context=CONTEXT, chunks=2)
    assert found.divergence
    assert abs(found.divergence.maximum) < 1e-6
    assert found.divergence.same_top.value == 1
    assert found.divergence.perplexity_ratio.value == pytest.approx(1)
    alone = evaluate(pair.model, TEXT, context=CONTEXT, chunks=2)
    assert alone.perplexity == found.perplexity
    assert alone.divergence is None


def test_two_models_that_do_not_fit_memory_are_said(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = pair.base
    monkeypatch.setattr("portable.gguf.size", lambda path: 1 << 40 if path == base else 1)
    found = evaluate(pair.model, TEXT, base=base, context=CONTEXT, chunks=1)
    assert found.divergence is None and found.perplexity.value > 1
    assert found.skipped.startswith("both models need 1024.5 GiB of memory")


def test_a_base_with_other_tokens_is_refused(pair: Any, smollm2: Path) -> None:
    with pytest.raises(UsageError, match="another vocabulary"):
        evaluate(pair.model, TEXT, base=smollm2, context=CONTEXT, chunks=1)


def test_a_text_of_less_than_a_chunk_says_both_numbers(smollm2: Path) -> None:
    with pytest.raises(UsageError, match=r"has 3 tokens, and one chunk takes 512"):
        evaluate(smollm2, "One two three")
    with pytest.raises(UsageError, match="0 chunks"):
        evaluate(smollm2, TEXT, chunks=0)


def test_an_encoder_cannot_be_measured(tmp_path: Path) -> None:
    convert(tiny(tmp_path / "bert", "bert"), tmp_path / "bert.gguf", Options(quant="F32"))
    with pytest.raises(UnsupportedModel, match="encoder"):
        make_imatrix(tmp_path / "bert.gguf", TEXT, "text")


def test_divergence_by_the_definition() -> None:
    random = np.random.default_rng(5)
    logits = [random.standard_normal((6, 50)).astype(np.float32) * 4 for _ in range(2)]
    targets = np.arange(6)
    p, q = [np.exp(x.astype(np.float64)) for x in logits[::-1]]
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    found = compared([log_softmax(x) for x in logits], targets)
    rows = np.arange(6)
    np.testing.assert_allclose(found[:, 0], -np.log(q[rows, targets]), rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], -np.log(p[rows, targets]), rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], (p * np.log(p / q)).sum(1), rtol=1e-4)
    np.testing.assert_array_equal(found[:, 3], p.argmax(1) == q.argmax(1))


def test_large_logits_do_not_overflow_and_nan_is_an_error() -> None:
    logits = np.array([[1e4, 0, -1e4]], np.float32)
    assert compared([log_softmax(logits)], np.array([0])) == 0
    logits[0, 1] = np.nan
    with pytest.raises(NonFiniteLogits):
        compared([log_softmax(logits)], np.array([0]))


def test_chunks_are_whole_and_begin_with_the_start_token() -> None:
    assert cut(list(range(10)), 4, None, None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut(list(range(10)), 4, 1, 99) == [[99, 1, 2, 3]]


@pytest.mark.parametrize(("places", "used"), [(1, 2), (2, 2)], ids=["shared rows", "own rows"])
def test_each_expert_sums_what_was_routed_to_it(places: int, used: int) -> None:
    random = np.random.default_rng(2)
    values = random.standard_normal((5, places, 3)).astype(np.float32)
    chosen = np.array([[0, 2], [2, 3], [3, 0], [0, 3], [2, 0]], np.int32)
    squares, counts = expert_sums(values, chosen, experts=4)
    for expert in range(4):
        rows = np.array([values[t, n % places] for t, n in zip(*np.nonzero(chosen == expert))])
        assert counts[expert] == len(rows)
        np.testing.assert_allclose(squares[expert], (rows.reshape(-1, 3) ** 2).sum(0), rtol=1e-5)


def test_rows_of_many_heads_meet_the_matrices_in_turn() -> None:
    values = np.arange(2 * 4 * 3 * 2, dtype=np.float32).reshape(2, 4, 3, 2)
    squares, counts = dense_sums(values, (1, 2))
    np.testing.assert_array_equal(squares[0], (values[:, ::2] ** 2).sum(axis=(0, 1, 2)))
    np.testing.assert_array_equal(squares[1], (values[:, 1::2] ** 2).sum(axis=(0, 1, 2)))
    assert counts.tolist() == [12.0]


def test_a_libggml_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "TYPES", {0: np.dtype(np.float32), 27: np.dtype(np.int32)})
    with pytest.raises(EngineError, match="another way"):
        tensors._check_layout.__wrapped__()


def test_an_error_in_the_callback_is_raised_after_the_computation(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_tensor: object) -> bool:
        raise RuntimeError("from the callback")

    monkeypatch.setattr("portable.measure.imatrix.wanted", fail)
    with pytest.raises(RuntimeError, match="from the callback"):
        make_imatrix(pair.base, TEXT, "text", context=CONTEXT, chunks=1)


def test_text_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than 64 MB"):
        read_text(Path("/dev/zero"))
    with pytest.raises(UsageError, match="nothing"):
        read_text(tmp_path / "nothing.txt")
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1") * 512)
    with pytest.raises(UsageError, match="not UTF-8: byte 1"):
        read_text(tmp_path / "latin.txt")


def portable(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "portable.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    said = run.communicate(timeout=60)[1]
    return run.returncode, said


def test_the_command_makes_a_matrix_that_convert_takes(pair: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 4)
    code, _ = ended(portable("imatrix", pair.base, "text.txt", "--chunks", 2, cwd=tmp_path))
    assert code == 0
    file = tmp_path / f"{pair.base.stem}-imatrix.gguf"
    found = read_imatrix(file)
    assert (found.chunks, found.chunk_tokens, found.datasets) == (2, 512, ("text.txt",))
    checkpoint = pair.base.parent / pair.family
    made = convert(checkpoint, tmp_path / "x.gguf", Options(quant="IQ4_NL", imatrix=file))
    assert not any("lacks" in warning for warning in made.warnings)


def test_the_matrix_replaces_neither_the_model_nor_the_text(pair: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text(TEXT)
    for output in (pair.base, text):
        code, said = ended(portable("imatrix", pair.base, text, "-o", output, cwd=tmp_path))
        assert code == 2 and "is what is read" in said
    assert text.read_text() == TEXT


def test_ctrl_c_ends_it_and_leaves_nothing(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 200)
    run = portable("imatrix", smollm2, "text.txt", "-o", "m.gguf", cwd=tmp_path)
    assert run.stderr and any(line.startswith("imatrix:") for line in run.stderr)
    run.send_signal(signal.SIGINT)
    code, said = ended(run)
    assert code == 130 and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
