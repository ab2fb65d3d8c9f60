"""Checkpoints with few bits: scaled 8-bit floats are read, others name their original."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import tiny
from hubs import environment, serving
from tiny_tokenizers import edit_json

from convert import Options, check_config, convert
from portable.errors import CheckpointError, PortableError, UnsupportedModel
from portable.obtain import obtain


def edit_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the JSON header and leaves the data as it was."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


AWQ = {"architectures": ["Qwen2ForCausalLM"], "quantization_config": {"quant_method": "awq"}}


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "unsloth/Qwen3-8B"),
        ("RedHatAI/Qwen2.5-7B-Instruct-quantized.w4a16", "RedHatAI/Qwen2.5-7B-Instruct"),
        ("org/model", "BF16, F16 or F32"),
        ("", "BF16, F16 or F32"),
    ],
)
def test_quantized_checkpoints_name_their_original(name: str, original: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        check_config(AWQ, name)
    assert caught.value.hint.endswith(original)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("\n- Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("\n- a/b\n- c/d", "org/model"),
        ("[[]]", "org/model"),
    ],
)
def test_the_card_knows_the_original_better(tmp_path: Path, base: str, said: str) -> None:
    model = tiny(tmp_path / "model", "qwen2", **AWQ)
    (model / "README.md").write_text(f"---\nbase_model: {base}\n---\n# A model\n", "utf-8")
    with pytest.raises(UnsupportedModel) as caught:
        convert(model, model / "out.gguf", Options(name="org/model-AWQ"))
    assert caught.value.hint.endswith(said)


def _without_scale(folder: Path) -> None:
    edit_header(folder, lambda h: h.update({f"{Q_PROJ}_activation_scale": h.pop(SCALE)}))


def _turned_scale(folder: Path) -> None:
    edit_header(folder, lambda h: h[SCALE]["shape"].reverse())


def _block(size: Any) -> Callable[[Path], None]:
    def change(config: dict[str, Any]) -> None:
        config["quantization_config"]["weight_block_size"] = size

    return lambda folder: edit_json(folder / "config.json", change)


Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
SCALE = f"{Q_PROJ}_scale_inv"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without_scale, "q_proj.weight_scale_inv is missing"),
        (_turned_scale, "which does not fit"),
        (_block([128, 128]), "which does not fit"),
        (_block(None), "which does not fit"),
        (_block([128]), "weight_block_size"),
        (_block([0, 128]), "weight_block_size"),
        (_block("128"), "weight_block_size"),
    ],
)
def test_fp8_scales_that_do_not_fit(
    damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "fp8", "qwen3", fp8=[48, 40])
    damage(folder)
    with pytest.raises(PortableError, match=said):
        convert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def _renamed_scales(folder: Path) -> None:
    edit_header(folder, lambda h: h.update({f"{DOWN}_exponents": h.pop(f"{DOWN}_scales")}))


def _other_scales(folder: Path) -> None:
    edit_header(folder, lambda h: h[f"{DOWN}_scales"]["shape"].reverse())


DOWN = "model.layers.0.mlp.experts.down_proj"


@pytest.mark.parametrize("damage", [_renamed_scales, _other_scales])
def test_4_bit_blocks_without_fitting_exponents(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "model", "gpt_oss")
    damage(folder)
    with pytest.raises(CheckpointError, match="not 4-bit blocks"):
        convert(folder, tmp_path / "out.gguf")


def test_an_exponent_that_is_no_number(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "gpt_oss")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    start, _ = json.loads(data[8 : 8 + size])[f"{DOWN}_scales"]["data_offsets"]
    data[8 + size + start] = 255
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        convert(folder, tmp_path / "out.gguf")


def test_the_original_is_named_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "source", "qwen2", **AWQ)
    card = b"---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n# Quantized\n"
    files = {p.name: p.read_bytes() for p in folder.iterdir()} | {"README.md": card}
    with serving() as fake, environment(monkeypatch, tmp_path / "caches", fake.url):
        fake.add("org/Model-AWQ", files)
        with pytest.raises(UnsupportedModel, match="already quantized") as caught:
            obtain("org/Model-AWQ", say=lambda _: None)
        assert not fake.state.asked("model.safetensors")
    assert caught.value.hint == "convert the original model, Qwen/Qwen2.5-7B-Instruct"
