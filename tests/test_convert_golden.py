"""Files equal what llama.cpp's own converter and quantizer wrote: keys, names, shapes, bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import minilm, smollm2, tiny
from ggufs import Gguf, summary
from golden_cases import TINY

from convert import Options, convert

GOLDEN = Path(__file__).parent / "golden"
# Ours beside llama.cpp's: docs/CONVERT.md lists them.
OWN = {"portable.version", "portable.source", "portable.quantization", "portable.tensors.sha256"}


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2(tmp_path_factory.mktemp("smol") / "SmolLM2-135M-Instruct")


# Keys whose values differ on purpose; docs/CONVERT.md says why.
DIFFERENT = {
    # The converter does not see that the tokenizer begins each text with a space.
    "tiny-xlm-roberta-json": ("tokenizer.ggml.add_space_prefix",),
    "tiny-nomic-bert-moe": ("tokenizer.ggml.add_space_prefix",),
    "tiny-mistral": ("tokenizer.ggml.scores",),
    "tiny-glm": (
        "chatglm.context_length",
        "chatglm.rope.freq_base",
        "chatglm.attention.layer_norm_rms_epsilon",
    ),
}


def held_against_golden(path: Path, golden: str) -> None:
    wanted = json.loads((GOLDEN / f"{golden}.json").read_text("utf-8"))
    found = json.loads(json.dumps(summary(path)))
    assert set(found["keys"]) - OWN == set(wanted["keys"])
    for key in DIFFERENT.get(golden.rpartition("-")[0], ()):
        assert found["keys"].pop(key) != wanted["keys"].pop(key)
    assert {k: v for k, v in found["keys"].items() if k not in OWN} == wanted["keys"]
    assert sorted(found["tensors"]) == sorted(wanted["tensors"])


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "F16"])
def test_smollm2(smol: Path, tmp_path: Path, quant: str) -> None:
    convert(smol, tmp_path / "out.gguf", Options(quant=quant))
    held_against_golden(tmp_path / "out.gguf", f"smollm2-{quant}")


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "F16"])
def test_minilm(tmp_path: Path, quant: str) -> None:
    convert(minilm(), tmp_path / "out.gguf", Options(quant=quant, name="all-MiniLM-L6-v2"))
    held_against_golden(tmp_path / "out.gguf", f"minilm-{quant}")


@pytest.mark.parametrize("quant", ["F32", "BF16"])
@pytest.mark.parametrize("name", TINY)
def test_tiny(name: str, quant: str, tmp_path: Path) -> None:
    family, _, options = TINY[name]
    folder = tiny(tmp_path / f"Tiny-{name}-1M-Instruct", family, **options)
    convert(folder, tmp_path / "out.gguf", Options(quant=quant))
    held_against_golden(tmp_path / "out.gguf", f"tiny-{name}-{quant}")


def test_tensors_lie_in_the_quantizers_order(smol: Path, tmp_path: Path) -> None:
    convert(smol, tmp_path / "out.gguf")
    wanted = json.loads((GOLDEN / "smollm2-Q4_K_M.json").read_text("utf-8"))["tensors"]
    assert list(Gguf(tmp_path / "out.gguf").tensors) == [entry[0] for entry in wanted]


def test_a_hash_named_snapshot_takes_the_hub_name(smol: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "9a1bc2"
    snapshot.symlink_to(smol)
    convert(
        snapshot,
        tmp_path / "out.gguf",
        Options(quant="F16", name="HuggingFaceTB/SmolLM2-135M-Instruct"),
    )
    held_against_golden(tmp_path / "out.gguf", "smollm2-F16")


def test_shards_make_the_same_file(smol: Path, tmp_path: Path) -> None:
    sharded = smollm2(tmp_path / "SmolLM2-135M-Instruct", shards=3)
    one = convert(smol, tmp_path / "one.gguf").path
    assert convert(sharded, tmp_path / "three.gguf").path.read_bytes() == one.read_bytes()
