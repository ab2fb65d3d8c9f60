"""Importance matrices: read, held against llama.cpp's quantizer, refused where they are wrong."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from checkpoints import tiny
from ggufs import Gguf
from test_quantize import MODELS

from convert import Options, convert
from convert.gguf_file import Info
from convert.imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from convert.quants import QUANTS
from convert.stream import Job, _quantized
from portable.errors import UsageError
from portable.tensortype import TYPES

NEED_ONE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S")
NAME = "blk.0.attn_q.weight"


@pytest.fixture(scope="module", params=["qwen3-tied", "llama-narrow", "mixtral"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its lossless GGUF and an importance matrix of all its layers' weights."""
    family, options = MODELS[request.param]
    if family == "mixtral":  # eight experts in each layer are enough values
        options = {**options, "num_hidden_layers": 1}
    folder = tiny(tmp_path_factory.mktemp("model") / f"Tiny-{request.param}", family, **options)
    convert(folder, folder / "lossless.gguf", Options(quant="F32"))
    random = np.random.default_rng(7)
    entries = {}
    for name, tensor in Gguf(folder / "lossless.gguf").tensors.items():
        if name.startswith("blk.") and len(tensor.shape) > 1:
            experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
            sums = random.chisquare(1, experts * tensor.shape[0]) * 900
            counts = [900.0, *range(experts - 1)]  # the second expert was never chosen
            entries[name] = Entry(sums.astype(np.float32), np.array(counts, np.float32))
    write_imatrix(Imatrix(entries, ("calibration.txt",), 2, 512), folder / "matrix.gguf")
    return folder


def peer(folder: Path, target: Path, ftype: int) -> bool:
    """llama_model_quantize with the matrix; False where it refuses."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 2
    tensors = Gguf(folder / "matrix.gguf").tensors
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    kept = []
    for name in names:
        counts = np.frombuffer(tensors[f"{name}.counts"].data, np.float32)
        sums = np.frombuffer(tensors[f"{name}.in_sum2"].data, np.float32).reshape(len(counts), -1)
        used = counts > 0
        means = np.ones_like(sums)
        means[used] = sums[used] / counts[used][:, None]
        kept.append(means.reshape(-1))
    pointer = ctypes.POINTER(ctypes.c_float)
    rows = [(n.encode(), v.ctypes.data_as(pointer), v.size) for n, v in zip(names, kept)]
    params.imatrix = (llama_cpp.llama_model_imatrix_data * (len(rows) + 1))(*rows)
    source = str(folder / "lossless.gguf").encode()
    return not llama_cpp.llama_model_quantize(source, str(target).encode(), ctypes.byref(params))


@pytest.mark.parametrize("quant", [name for name in QUANTS if name != "F32"])
def test_equals_llama_model_quantize(model: Path, quant: str, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    options = Options(quant, imatrix=model / "matrix.gguf")
    if not peer(model, theirs, QUANTS[quant].ftype):
        with pytest.raises(UsageError, match="does not divide"):
            convert(model, ours, options)
        return
    convert(model, ours, options)
    found, wanted = Gguf(ours), Gguf(theirs)
    types = {name: tensor.type for name, tensor in wanted.tensors.items()}
    assert {name: tensor.type for name, tensor in found.tensors.items()} == types
    assert found.tensors == wanted.tensors
    entries = len(read_imatrix(model / "matrix.gguf").entries)
    assert found.keys["quantize.imatrix.file"] == (8, b"matrix.gguf")
    assert found.keys["quantize.imatrix.dataset"] == (8, b"calibration.txt")
    assert found.keys["quantize.imatrix.entries_count"] == (4, entries)
    assert found.keys["quantize.imatrix.chunks_count"] == (4, 2)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two layers, whose rows K-quants divide."""
    options = {**MODELS["qwen3-tied"][1], "num_hidden_layers": 2}
    return tiny(tmp_path_factory.mktemp("narrow") / "Narrow", "qwen3", **options)


def matrix(path: Path, entries: dict[str, Entry]) -> Path:
    write_imatrix(Imatrix(entries, ("text",), 1, 512), path)
    return path


def entry(columns: int, *counts: float) -> Entry:
    return Entry(np.ones(columns * len(counts), np.float32), np.array(counts, np.float32))


@pytest.mark.parametrize("quant", NEED_ONE)
def test_a_type_that_needs_a_matrix_names_the_command_that_makes_one(
    narrow: Path, quant: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"{quant} needs an importance matrix") as caught:
        convert(narrow, tmp_path / "x.gguf", Options(quant))
    assert "portable imatrix MODEL TEXT" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_the_matrix_lacks_is_said_or_refused(narrow: Path, tmp_path: Path) -> None:
    file = matrix(tmp_path / "m.gguf", {NAME: entry(256, 1)})
    made = convert(narrow, tmp_path / "x.gguf", Options("Q4_K_M", imatrix=file))
    assert any("m.gguf lacks 13 of 14 tensors" in warning for warning in made.warnings)
    with pytest.raises(UsageError, match=r"IQ2_XXS needs .* lacks blk\.0\.attn_k\.weight"):
        convert(narrow, tmp_path / "y.gguf", Options("IQ2_XXS", imatrix=file))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({NAME: entry(128, 1)}, "m.gguf is of another model: blk.0.attn_q.weight has 128 columns"),
        ({NAME: entry(128, 1, 1)}, "m.gguf is of another model: blk.0.attn_q.weight"),
        ({"blk.77.attn_q.weight": entry(256, 1)}, "m.gguf is of another model: it lacks"),
        ({NAME: entry(256, np.nan)}, "not a number"),
    ],
    ids=["columns", "experts", "names", "nan"],
)
def test_a_matrix_of_another_model_is_refused(
    narrow: Path, entries: dict[str, Entry], message: str, tmp_path: Path
) -> None:
    file = matrix(tmp_path / "m.gguf", entries)
    with pytest.raises(UsageError, match=message):
        convert(narrow, tmp_path / "x.gguf", Options("Q4_K_M", imatrix=file))
    assert not (tmp_path / "x.gguf").exists()


def test_a_tied_embeddings_entry_of_another_shape_is_ignored_as_llama_cpp_does(
    narrow: Path, tmp_path: Path
) -> None:
    entries = {NAME: entry(256, 1), "token_embd.weight": entry(3, 1)}
    file = matrix(tmp_path / "m.gguf", entries)
    convert(narrow, tmp_path / "x.gguf", Options("Q4_K_M", imatrix=file))


def legacy(entries: dict[str, tuple[int, list[float]]], rest: bytes = b"") -> bytes:
    out = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        out += struct.pack("<i", len(name)) + name.encode()
        out += struct.pack(f"<ii{len(values)}f", calls, len(values), *values)
    return out + rest


def test_the_format_before_gguf(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(legacy({NAME: (4, [4.0, 8.0]), "b": (0, [3.0])}))
    found = read_imatrix(path)
    assert found.entries[NAME].weights(0, 1).tolist() == [1.0, 2.0]
    assert found.entries["b"].weights(0, 1).tolist() == [3.0]
    assert (found.chunks, found.datasets) == (0, ())
    path.write_bytes(legacy({NAME: (4, [4.0])}, struct.pack("<ii", 9, 4) + b"text"))
    found = read_imatrix(path)
    assert (found.chunks, found.datasets) == (9, ("text",))


def test_an_expert_that_nothing_was_routed_to_weighs_its_columns_alike() -> None:
    sums = np.array([2.0, 4.0, 0.0, 0.0], np.float32)
    found = Entry(sums, np.array([2.0, 0.0], np.float32))
    assert found.weights(0, 2).tolist() == [1.0, 2.0]
    assert found.weights(1, 2).tolist() == [1.0, 1.0]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries = {"a": entry(8, 3), "experts": entry(8, 3, 0, 5)}
    found = read_imatrix(matrix(tmp_path / "m.gguf", entries))
    assert (found.datasets, found.chunks, found.chunk_tokens) == (("text",), 1, 512)
    assert {name: e.counts.tolist() for name, e in found.entries.items()} == {
        "a": [3.0],
        "experts": [3.0, 0.0, 5.0],
    }
    assert found.unused == pytest.approx(1 / 3)


def test_each_expert_is_quantized_by_its_own_weights() -> None:
    random = np.random.default_rng(3)
    values = random.standard_normal((3 * 4, 256)).astype(np.float32)
    importance = Entry(
        random.chisquare(1, 3 * 256).astype(np.float32), np.array([5, 7, 9], np.float32)
    )
    job = Job(Info("x", (3, 4, 256), TYPES["IQ2_XXS"]), importance=importance)
    whole = _quantized(job, values, 0)
    row = job.info.type.row_bytes(256)
    # However the rows are cut, each meets its own expert's weights.
    parts = [_quantized(job, values[a:b], a * row) for a, b in ((0, 3), (3, 9), (9, 12))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    alone = Job(
        Info("x", (4, 256), TYPES["IQ2_XXS"]),
        importance=Entry(importance.sums[256:512], importance.counts[1:2]),
    )
    assert _quantized(alone, values[4:8], 0).tobytes() == whole[4 * row : 8 * row].tobytes()


def broken(good: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "text": b"Once upon a time there was no matrix.",
        "a model": _model(),
        "cut in the header": good[:60],
        "cut in the data": good[:-200],
        "no counts": good.replace(b".counts", b".kounts"),
        "no keys": good.replace(b"imatrix.chunk_size", b"imatrix.chunk_sise"),
        "many keys": good[:16] + struct.pack("<Q", 1 << 60) + good[24:],
        "many tensors": good[:8] + struct.pack("<Q", 1 << 40) + good[16:],
        "no such version": good[:4] + struct.pack("<I", 77) + good[8:],
        "negative count": struct.pack("<i", -5),
        "long name": struct.pack("<ii", 1, 1 << 30) + b"x",
        "many values": legacy({"x": (1, [1.0])})[:-8] + struct.pack("<i", 1 << 30),
        "cut legacy": legacy({"x": (1, [1.0, 2.0])})[:-1],
    }


def _model() -> bytes:
    key = b"general.type"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    return head + struct.pack("<IQ", 8, 5) + b"model"


@pytest.mark.parametrize("name", broken(b""))
def test_a_broken_or_foreign_file_is_one_message(name: str, tmp_path: Path) -> None:
    good = matrix(tmp_path / "good.gguf", {NAME: entry(256, 1)}).read_bytes()
    path = tmp_path / "bad.gguf"
    path.write_bytes(broken(good)[name])
    with pytest.raises(UsageError, match=r"bad\.gguf is not an importance matrix: it ") as caught:
        read_imatrix(path)
    assert "portable imatrix MODEL TEXT" in caught.value.hint


def test_no_mutation_of_a_matrix_gets_past_as_anything_but_a_usage_error(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    good = {
        "gguf": matrix(tmp_path / "m", {NAME: entry(4, 1), "b": entry(2, 1, 0)}).read_bytes(),
        "dat": legacy({NAME: (4, [4.0, 8.0])}, struct.pack("<ii", 9, 4) + b"text"),
    }
    path = tmp_path / "mutated"
    refused = 0
    for number in range(600):
        data = bytearray(good["gguf" if number % 2 else "dat"])
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = random.integers(256)
        path.write_bytes(data[: random.integers(1, len(data) + 1)] if number % 5 == 0 else data)
        try:
            read_imatrix(path)
        except UsageError:
            refused += 1
    assert 200 < refused < 600


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="it is not an ordinary file"):
        read_imatrix(tmp_path / "pipe")


def test_a_matrix_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_imatrix(tmp_path / "none.gguf")
    with pytest.raises(UsageError, match="it is not an ordinary file"):
        read_imatrix(tmp_path)
