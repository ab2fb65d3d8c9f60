"""What was told of a model's memory is what it takes, once its whole context is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import minilm, tiny
from serving import ROOT, model_file

from convert import Options, convert

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems count a process's memory in other ways"
)
# Bytes: what a process of Python takes besides differs by so much.
NEAR = 48 << 20


def python(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(path: Path, context: int, kv_type: str) -> dict[str, Any]:
    flags = ["--context", str(context), "--kv-type", kv_type, "--gpu-layers", "0", "--json"]
    said = json.loads(python("-m", "portable.cli", "fit", str(path), *flags))
    (row,) = said["quants"]
    return row  # type: ignore[no-any-return]


def taken(path: Path, context: int, kv_type: str) -> int:
    return int(python(str(ROOT / "tests" / "resident.py"), str(path), str(context), kv_type))


def close(row: dict[str, Any], size: int) -> bool:
    return bool(abs(row["resident"] - size) < max(0.1 * size, NEAR))


@pytest.mark.parametrize(("context", "kv_type"), [(512, "f16"), (1280, "q8_0")])
def test_of_smollm2(context: int, kv_type: str) -> None:
    path = model_file()
    row = told(path, context, kv_type)
    assert close(row, taken(path, context, kv_type)), row


def test_of_weights_that_are_repacked(tmp_path: Path) -> None:
    """And of a context that is larger than the program."""
    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 8192,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 4096,
    }
    folder = tiny(tmp_path / "Qwen", "qwen2", **sizes)
    path = convert(folder, tmp_path / "m.gguf", Options(quant="Q4_0")).path
    row = told(path, 2048, "f16")
    assert row["weights"] > 2 * NEAR and row["cache"] > NEAR
    assert close(row, taken(path, 2048, "f16")), row


def test_of_an_encoder(tmp_path: Path) -> None:
    path = convert(minilm(), tmp_path / "m.gguf", Options(quant="Q8_0")).path
    row = told(path, 512, "f16")
    assert row["cache"] == 0 and row["tokens_per_second"] is None
    assert close(row, taken(path, 512, "f16")), row
