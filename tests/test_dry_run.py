"""What llama.cpp would reserve, told without weights: the same as when it does reserve it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from checkpoints import tiny
from ggufs import split
from serving import model_file

from convert import Options, convert
from portable import gguf
from portable.engine.config import EngineConfig, KvType
from portable.engine.dry_run import Request, dry_run, sparse
from portable.engine.llama import Llama

SLOTS, STEP = 3, 128


def request(model: Path, cells: int, kv_type: str = "f16") -> Request:
    """What `Llama` asks for."""
    flash = -1 if kv_type == "f16" else 1
    return Request(str(model), cells, STEP + SLOTS, SLOTS, SLOTS, kv_type=kv_type, flash=flash)


@pytest.mark.parametrize(("cells", "kv_type"), [(512, "f16"), (4096, "f16"), (2048, "q8_0")])
def test_sizes_are_those_of_a_context_that_is_made(cells: int, kv_type: KvType) -> None:
    config = EngineConfig(
        model_file(),
        context=cells,
        slots=SLOTS,
        step_tokens=STEP,
        threads=1,
        kv_type=kv_type,
        gpu_layers=0,
    )
    with closing(Llama(config)) as made:
        buffers = made.buffers
    (told,) = dry_run([request(model_file(), cells, kv_type)])
    assert (told.compute, told.output) == (buffers.compute, buffers.output["CPU"])
    assert told.compute["CPU"] > 1 << 20 and told.nodes > 100
    assert 30 << 20 < told.process < 300 << 20


def test_a_head_is_enough_and_takes_no_room() -> None:
    whole = model_file()
    with whole.open("rb") as file:
        head = file.read(gguf.read(whole).start)
    with sparse([(head, whole.stat().st_size)]) as path:
        assert os.name == "nt" or path.stat().st_blocks * 512 < 2 * len(head)
        here, there = dry_run([request(path, 1024), request(whole, 1024)])
    assert (here.compute, here.output) == (there.compute, there.output) and here.output
    assert not path.exists()


def test_fewer_outputs_take_less() -> None:
    every = Request(str(model_file()), 1024, 256, 1)
    few = Request(str(model_file()), 1024, 256, 1, outputs=1)
    found = dry_run([every, few])
    vocabulary = 49152
    saved = found[0].compute["CPU"] - found[1].compute["CPU"]
    assert saved == pytest.approx(255 * vocabulary * 4, rel=0.2)


def test_what_is_no_model_is_told_beside_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    bad, good = dry_run([request(tmp_path / "x.gguf", 512), request(model_file(), 512)])
    assert bad.error and not bad.compute
    assert good.compute and not good.error
    assert capfd.readouterr() == ("", "")


def test_a_split_model_is_found_by_its_heads(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", "qwen2")
    whole = convert(folder, tmp_path / "whole.gguf", Options(quant="Q8_0")).path
    parts = split(whole, 3)
    heads = [(part.read_bytes()[: gguf.read(part).start], part.stat().st_size) for part in parts]
    with sparse(heads) as path:
        found = dry_run([request(path, 512), request(whole, 512)])
    assert found[0].compute == found[1].compute and found[0].compute
