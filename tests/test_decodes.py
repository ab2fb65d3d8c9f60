"""Each family's file loads in llama.cpp and decodes; an abort there fails its own case alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import tiny
from golden_cases import TINY

from convert import Options, convert

PROGRAM = Path(__file__).with_name("decode_once.py")
# A whole period where a family's layers differ; of Baichuan, llama.cpp knows two depths only.
LAYERS = {"baichuan": 32, "gemma2": 3, "gemma3": 7, "smollm3": 5}


@pytest.mark.parametrize("name", TINY)
def test_decodes(name: str, tmp_path: Path) -> None:
    family, _, options = TINY[name]
    if family in LAYERS:
        options = options | {"num_hidden_layers": LAYERS[family]}
    folder = tiny(tmp_path / f"Tiny-{name}-1M-Instruct", family, **options)
    path = convert(folder, tmp_path / "out.gguf", Options(quant="BF16")).path
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 0
