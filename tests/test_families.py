"""What is special about single families: parts left out, patterns llama.cpp cannot run, values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import tiny
from ggufs import Gguf, Tensor
from safetensors.numpy import load_file, save_file
from tiny_encoders import ENCODERS
from tiny_experts import EXPERTS
from tiny_families import LONGROPE, TINY
from tiny_shapes import tiny_config

from convert import Options, convert
from convert.arch import FAMILIES, baichuan, check_config
from convert.config import Config
from portable.errors import CheckpointError, PortableError, UnsupportedModel


def tensors(folder: Path) -> dict[str, Tensor]:
    out = folder.parent / f"{folder.name}.gguf"
    return Gguf(convert(folder, out, Options(quant="F32")).path).tensors


def floats(tensor: Tensor) -> Any:
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape[::-1])


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_gemma_that_sees(prefix: str, tmp_path: Path) -> None:
    plain = tiny(tmp_path / "plain", "gemma3")
    sees = tiny(tmp_path / "sees", "gemma3")
    text = json.loads((plain / "config.json").read_text("utf-8"))
    vision = {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}
    config = {"model_type": "gemma3", "text_config": text, **vision}
    (sees / "config.json").write_text(json.dumps(config), "utf-8")
    arrays = load_file(plain / "model.safetensors")
    moved = {name.replace("model.", prefix, 1): array for name, array in arrays.items()}
    moved["vision_tower.vision_model.embeddings.position_embedding.weight"] = np.ones((4, 4))
    moved["multi_modal_projector.mm_input_projection_weight"] = np.ones((4, 4))
    save_file(moved, sees / "model.safetensors")
    made = convert(sees, tmp_path / "sees.gguf", Options(quant="F32"))
    assert Gguf(made.path).tensors == tensors(plain)
    assert any("text only" in warning for warning in made.warnings)


REFUSED: dict[str, tuple[str, dict[str, Any], type[PortableError], str]] = {
    "full attention elsewhere": (
        "gemma3", {"layer_types": ["full_attention"] * 2}, UnsupportedModel, "layer_types"
    ),
    "another period": ("gemma3", {"sliding_window_pattern": 4}, UnsupportedModel, "every 6th"),
    "another scale of attention": (
        "gemma2", {"query_pre_attn_scalar": 100}, UnsupportedModel, "query_pre_attn_scalar of 32"
    ),
    "the largest Gemma's scale": (
        "gemma2", {"num_hidden_layers": 46}, UnsupportedModel, "query_pre_attn_scalar of 16"
    ),
    "rotation elsewhere": (
        "smollm3", {"no_rope_layers": [1, 0, 1, 0]}, UnsupportedModel, "no_rope_layers"
    ),
    "another step of rotation": (
        "smollm3", {"no_rope_layer_interval": 2}, UnsupportedModel, "no_rope_layers"
    ),
    "softcapping that Gemma 3 dropped": (
        "gemma3", {"attn_logit_softcapping": 50.0}, UnsupportedModel, "attn_logit_softcapping"
    ),
    "halves of a head that differ": ("internlm2", {"hidden_size": 60}, CheckpointError, "even"),
    "another scale": ("minicpm3", {"scale_depth": 1.5}, UnsupportedModel, "scale_depth of 1.4"),
    "another scaling": (
        "phi3", {"rope_scaling": {"type": "linear", "factor": 2}}, UnsupportedModel, "'linear'"
    ),
    "too few factors": (
        "phi3", {"rope_scaling": {**LONGROPE, "long_factor": [1]}}, CheckpointError, "8 numbers"
    ),
    "factors that are no numbers": (
        "phi3",
        {"rope_scaling": {**LONGROPE, "short_factor": ["x"] * 8}},
        CheckpointError,
        "only numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_run_wrongly_is_refused(case: str, tmp_path: Path) -> None:
    family, options, kind, match = REFUSED[case]
    folder = tiny(tmp_path / "model", family, **options)
    with pytest.raises(kind, match=match):
        convert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_gemma_layers_in_the_published_pattern(tmp_path: Path) -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    folder = tiny(tmp_path / "model", "gemma3", num_hidden_layers=7, layer_types=kinds)
    assert "blk.6.attn_q.weight" in tensors(folder)


def test_baichuan2_has_output_rows_of_length_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny(tmp_path / "model", "baichuan")
    stored = load_file(folder / "model.safetensors")["lm_head.weight"].astype(np.float32)
    assert (floats(tensors(folder)["output.weight"]) == stored).all()
    monkeypatch.setattr(baichuan, "BAICHUAN2", len(stored))
    lengths = np.linalg.norm(stored, axis=1, keepdims=True)
    found = floats(tensors(folder)["output.weight"])
    np.testing.assert_allclose(found, stored / lengths, rtol=1e-6)


def test_baichuan2_puts_no_space_before_a_text(tmp_path: Path) -> None:
    key = "tokenizer.ggml.add_space_prefix"
    for splitter, wanted in (("spm", None), ("gemma", False)):
        folder = tiny(tmp_path / splitter, "baichuan", splitter=splitter)
        keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
        assert keys.get(key, (7, None))[1] is wanted


def test_stablelm_by_its_older_keys(tmp_path: Path) -> None:
    older = {"architectures": ["StableLMEpochForCausalLM"], "rope_pct": 0.5, "norm_eps": 1e-3}
    folder = tiny(tmp_path / "model", "stablelm", **older)
    keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
    assert keys["stablelm.rope.dimension_count"][1] == 8
    assert keys["stablelm.attention.layer_norm_epsilon"][1] == np.float32(1e-3)


def test_glm_says_what_its_config_says(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "glm")
    keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
    assert keys["chatglm.context_length"][1] == 512
    assert keys["chatglm.rope.freq_base"][1] == 1e6
    assert keys["chatglm.attention.layer_norm_rms_epsilon"][1] == np.float32(1e-6)


WRONG = [None, True, "x", -1, 0, 1, 1.5, 1e300, 10**400, float("nan"), [], ["x"], {}, {"type": []}]


@pytest.mark.parametrize("family", [*sorted(TINY), *EXPERTS, *ENCODERS])
def test_a_config_that_lies_ends_in_an_error_of_ours(family: str) -> None:
    plain = tiny_config(family, 300) | {"rope_scaling": {**LONGROPE, "factor": 2.0}}
    lies = [{**plain, key: value} for key in plain for value in WRONG]
    scaling = plain["rope_scaling"]
    for key in scaling:
        lies += [{**plain, "rope_scaling": {**scaling, key: value}} for value in WRONG]
    told = 0
    for config in lies:
        try:
            found = FAMILIES[check_config(config)]
            checked = Config(config, found.DEFAULTS)
            list(found.rows(checked))
            found.extra_tensors(checked)
        except PortableError as error:
            assert error.exit_code in (2, 3) and "\n" not in str(error)
            told += 1
    assert told > len(lies) // 3
