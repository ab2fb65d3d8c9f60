"""The head of a GGUF file against an independent reader, damaged heads, and split models."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoints import tiny
from ggufs import Gguf, split

from convert import Options, convert
from portable import gguf
from portable.engine.config import EngineConfig
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.errors import ModelFileError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    output = folder / "模型 one-F16.gguf"
    convert(tiny(folder / "Tiny", "qwen2"), output, Options(quant="F16"))
    return output


@pytest.mark.parametrize("real", [False, True])
def test_keys_and_counts_are_the_files(whole: Path, smollm2: Path, real: bool) -> None:
    path = smollm2 if real else whole
    head, file = gguf.read(path), Gguf(path)
    assert head.keys.keys() == file.keys.keys()
    for key, (kind, value) in file.keys.items():
        if kind == gguf.ARRAY:
            inner, values = value
            small = len(values) <= gguf.MOST_LAYERS and inner not in (gguf.STRING, gguf.ARRAY)
            value = tuple(values) if small else len(values)
        assert head.keys[key] == (value.decode() if isinstance(value, bytes) else value)
    assert head.tensors == len(file.tensors)
    assert head.parameters == sum(int(np.prod(t.shape)) for t in file.tensors.values())


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 100, 0.5, 0.9])
def test_half_a_file_is_none(whole: Path, tmp_path: Path, keep: float) -> None:
    data = whole.read_bytes()
    path = tmp_path / "half.gguf"
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelFileError, match=r"half\.gguf is not a whole GGUF"):
        gguf.read(path)


def test_absurd_lengths_end_soon(tmp_path: Path) -> None:
    path = tmp_path / "absurd.gguf"
    lies = [(1 << 63, 0), (0, 1 << 63), (1 << 40, 1 << 40)]
    for tensors, keys in lies:
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + bytes(5000))
        with pytest.raises(ModelFileError):
            gguf.read(path)


def test_mutated_heads_are_read_or_refused(whole: Path, tmp_path: Path) -> None:
    data, draw = whole.read_bytes(), random.Random(7)
    path, refused = tmp_path / "mutant.gguf", 0
    for _ in range(300):
        mutant = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            mutant[draw.randrange(3000)] = draw.randrange(256)
        path.write_bytes(mutant)
        try:
            gguf.read(path)
        except ModelFileError:
            refused += 1
    assert 50 < refused < 300


def logits(path: Path) -> np.ndarray:
    llama = Llama(EngineConfig(path, context=64, slots=1))
    sequence = Sequence("x", [1, 2, 3, 4], SamplingParams(), slot=0)
    out = llama.decode([Slice(sequence, 0, 4)]).copy()
    llama.close()
    return out


def test_a_split_model_computes_what_the_whole_one_does(whole: Path) -> None:
    files = split(whole, 3)
    assert gguf.shards(files[1]) == files and gguf.stem(files[2]) == whole.stem
    assert gguf.size(files[0]) > whole.stat().st_size - 100
    assert np.array_equal(logits(files[0]), logits(whole))
    files[2].unlink()
    with pytest.raises(ModelFileError, match=r"1 of them are not .*-00003-of-00003\.gguf"):
        Llama(EngineConfig(files[0]))


@pytest.mark.parametrize(
    "name", ["m-00001-of-00000.gguf", "m-00003-of-00002.gguf", "m-1-of-2.gguf", "m.gguf"]
)
def test_what_only_looks_split_is_one_file(name: str) -> None:
    assert gguf.shard_names(name) == [name]
