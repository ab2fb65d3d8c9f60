"""LoRA adapters: files equal llama.cpp's converter's, merged weights equal numpy's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import ADAPTERS, LINEAR, lora, shapes
from checkpoints import save, tiny
from ggufs import Gguf
from golden_cases import TINY
from safetensors.numpy import load_file, save_file
from test_convert_golden import held_against_golden

from convert import Options, Progress, convert, convert_adapter
from convert.adapter import Adapter
from convert.merge import Merged
from portable.errors import CheckpointError, UnsupportedModel, UsageError

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny(tmp_path / "base", "qwen2")


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_file_is_llama_cpps(name: str, tmp_path: Path) -> None:
    base, targets, settings = ADAPTERS[name]
    family, _, options = TINY[base]
    folder = tiny(tmp_path / "base", family, **options)
    adapter = lora(tmp_path / f"Tiny-{name}-lora", folder, targets, **settings)
    convert_adapter(adapter, folder, tmp_path / "out.gguf")
    held_against_golden(tmp_path / "out.gguf", f"lora-{name}")


def test_of_the_base_only_config_json_is_read(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter", base, LINEAR)
    whole = convert_adapter(adapter, base, tmp_path / "whole.gguf").path.read_bytes()
    for path in base.iterdir():
        if path.name != "config.json":
            path.unlink()
    assert convert_adapter(adapter, base, tmp_path / "bare.gguf").path.read_bytes() == whole


def test_patterns_and_rslora_become_one_alpha_and_scaled_rows(base: Path, tmp_path: Path) -> None:
    settings = {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"layers.1.mlp.up_proj": 2, "mlp.up_proj": 5},
    }
    adapter = lora(tmp_path / "adapter", base, LINEAR, **settings)
    file = Gguf(convert_adapter(adapter, base, tmp_path / "out.gguf").path)
    _, alpha = file.keys["adapter.lora.alpha"]
    assert alpha == np.float32(32 * 8**0.5)
    stored = load_file(adapter / "adapter_model.safetensors")
    for layer, module, target, wanted in (
        (0, "self_attn.k_proj", "attn_k", 32 / 8**0.5),
        (0, "self_attn.q_proj", "attn_q", 32 / 4**0.5),
        (0, "mlp.up_proj", "ffn_up", 5 / 8**0.5),
        (1, "mlp.up_proj", "ffn_up", 2 / 8**0.5),
    ):
        source = stored[f"base_model.model.model.layers.{layer}.{module}.lora_B.weight"]
        tensor = file.tensors[f"blk.{layer}.{target}.weight.lora_b"]
        found = np.frombuffer(tensor.data, np.float32).reshape(source.shape)
        # llama.cpp computes alpha / rank from the shape.
        np.testing.assert_allclose(found * alpha / source.shape[1], source * wanted, rtol=1e-6)


def trained(base: Path, adapter: Path, folder: Path) -> Path:
    """The checkpoint that PEFT would have: every update added in numpy, stored in float32."""
    tensors = {n: a.astype(np.float32) for n, a in load_file(base / "model.safetensors").items()}
    stored = load_file(adapter / "adapter_model.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    plain = {name.removeprefix("base_model.model."): a for name, a in stored.items()}
    for name, a in plain.items():
        module, _, end = name.partition(".lora_A.")
        if end:
            b = plain[f"{module}.lora_B.weight"].astype(np.float64)
            scale = settings["lora_alpha"] / len(a)
            weight = tensors[f"{module}.weight"] + scale * (b @ a.astype(np.float64))
            if settings["use_dora"]:
                norm = np.linalg.norm(weight, axis=1, keepdims=True)
                weight *= plain[f"{module}.lora_magnitude_vector"][:, None] / norm
            tensors[f"{module}.weight"] = weight.astype(np.float32)
        elif ".lora_" not in name:
            tensors[name] = a
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    save(folder, tensors)
    return folder


MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("qwen2", {}),
    "turned-rows": ("llama", {"dtype": "BF16"}),
    "dora": ("qwen3", {"use_dora": True}),
    "whole-tensors": ("mistral", {"full": (HEAD, EMBEDDING)}),
}


@pytest.mark.parametrize("quant", ["F32", "BF16", "Q4_K_M"])
@pytest.mark.parametrize("name", MERGES)
def test_merged_weights_are_those_of_the_trained_model(
    name: str, quant: str, tmp_path: Path
) -> None:
    family, settings = MERGES[name]
    base = tiny(tmp_path / "base", family)
    adapter = lora(tmp_path / "adapter", base, LINEAR, **settings)
    options = Options(quant=quant, name="merged")
    ours = convert(base, tmp_path / "ours.gguf", options, adapter=adapter).path
    folder = trained(base, adapter, tmp_path / "trained")
    assert ours.read_bytes() == convert(folder, tmp_path / "theirs.gguf", options).path.read_bytes()
    assert ours.read_bytes() != convert(base, tmp_path / "base.gguf", options).path.read_bytes()


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_of_two_tied_matrices_only_the_trained_one_changes(
    target: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = shapes(base) | {HEAD: shapes(base)[EMBEDDING]}
    monkeypatch.setattr("adapters.shapes", lambda _: both)
    adapter = lora(tmp_path / "adapter", base, ("q_proj", target))
    with pytest.raises(UnsupportedModel, match="--merge"):
        convert_adapter(adapter, base, tmp_path / "out.gguf")
    options = Options(quant="F32")
    file = Gguf(convert(base, tmp_path / "out.gguf", options, adapter=adapter).path)
    plain = load_file(base / "model.safetensors")[EMBEDDING].astype(np.float32).tobytes()
    same = {name: file.tensors[f"{name}.weight"].data == plain for name in ("token_embd", "output")}
    assert same == {"token_embd": target != "embed_tokens", "output": target != "lm_head"}


def test_a_merge_reads_chunk_by_chunk(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    adapter = lora(tmp_path / "adapter", base, LINEAR, use_dora=True)
    options = Options(quant="F32", threads=2)
    whole = convert(base, tmp_path / "whole.gguf", options, adapter=adapter).path.read_bytes()
    monkeypatch.setattr("convert.stream.CHUNK_VALUES", 5 * 64)
    parts = convert(base, tmp_path / "parts.gguf", options, adapter=adapter).path.read_bytes()
    assert parts == whole


def test_an_interrupted_merge_goes_on_with_the_same_settings_only(
    base: Path, tmp_path: Path
) -> None:
    found = []
    for name, alpha in (("one", 16), ("two", 16), ("three", 32)):
        adapter = lora(tmp_path / name, base, LINEAR, lora_alpha=alpha)
        with closing(Merged(base, Adapter(adapter))) as merged:
            merged.open_tensors()
            found.append(list(merged.identities())[-1])
    assert found[0] == found[1] != found[2]


def test_settings_that_change_while_weights_are_read(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter", base, LINEAR)

    def touch(step: Progress) -> None:
        os.utime(adapter / "adapter_config.json", ns=(1, 1))

    with pytest.raises(CheckpointError, match=r"adapter_config\.json changed"):
        convert(base, tmp_path / "out.gguf", adapter=adapter, progress=touch)


def test_a_full_parameter_output_of_swift_converts(base: Path, tmp_path: Path) -> None:
    plain = convert(base, tmp_path / "plain.gguf").path.read_bytes()
    (base / "args.json").write_text('{"model": "org/name", "train_type": "full"}')
    assert convert(base, tmp_path / "swift.gguf").path.read_bytes() == plain


Spoil = Callable[[dict[str, Any]], Any]
SETTINGS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "not lora": ({"peft_type": "LOHA"}, UnsupportedModel, "LOHA"),
    "no type": ({"peft_type": None}, UnsupportedModel, "None"),
    "rank": ({"r": 0}, CheckpointError, "r is '0'"),
    "alpha": ({"lora_alpha": 0}, CheckpointError, "lora_alpha"),
    "alpha text": ({"lora_alpha": "16"}, CheckpointError, "lora_alpha"),
    "alpha list": ({"alpha_pattern": [1]}, CheckpointError, "alpha_pattern"),
    "alpha regex": ({"alpha_pattern": {"(a+)+$": 1}}, UnsupportedModel, "regular expression"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, UnsupportedModel, "pissa"),
    "loftq": ({"init_lora_weights": {}}, UnsupportedModel, "init_lora_weights"),
    "bias": ({"lora_bias": True}, UnsupportedModel, "lora_bias"),
    "alora": ({"alora_invocation_tokens": [1]}, UnsupportedModel, "alora"),
    "layers": ({"layer_replication": [[0, 2]]}, UnsupportedModel, "layer_replication"),
    "dora without": ({"use_dora": True}, CheckpointError, "magnitude"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_no_pair_can_say_are_refused(case: str, base: Path, tmp_path: Path) -> None:
    settings, kind, words = SETTINGS[case]
    adapter = lora(tmp_path / "adapter", base, LINEAR)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    for make in (
        lambda: convert_adapter(adapter, base, tmp_path / "out.gguf"),
        lambda: convert(base, tmp_path / "out.gguf", adapter=adapter),
    ):
        with pytest.raises(kind, match=words):
            make()
    assert not list(tmp_path.glob("*out.gguf*"))


ATTENTION = "base_model.model.model.layers.0.self_attn."
ZEROS = np.zeros((8, 64), np.float32)


def halve(arrays: dict[str, Any]) -> None:
    del arrays[f"{ATTENTION}q_proj.lora_B.weight"]


def twist(arrays: dict[str, Any]) -> None:
    arrays[f"{ATTENTION}q_proj.lora_A.weight"] = ZEROS.T.copy()


def narrow(arrays: dict[str, Any]) -> None:
    arrays[f"{ATTENTION}q_proj.lora_A.weight"] = ZEROS[:, :32].copy()


def deepen(arrays: dict[str, Any]) -> None:
    for half, shape in (("A", (8, 64)), ("B", (64, 8))):
        name = f"base_model.model.model.layers.2.self_attn.q_proj.lora_{half}.weight"
        arrays[name] = np.zeros(shape, np.float32)


def tokens(arrays: dict[str, Any]) -> None:
    arrays["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"] = ZEROS


def double(arrays: dict[str, Any]) -> None:
    arrays[f"{ATTENTION}q_proj.lora_A.default.weight"] = ZEROS


def integers(arrays: dict[str, Any]) -> None:
    arrays[f"{ATTENTION}q_proj.lora_A.weight"] = ZEROS.astype(np.int32)


def norm(arrays: dict[str, Any]) -> None:
    for half, shape in (("A", (8, 64)), ("B", (64, 8))):
        name = f"base_model.model.model.layers.0.input_layernorm.lora_{half}.weight"
        arrays[name] = np.zeros(shape, np.float32)


WEIGHTS: dict[str, tuple[Spoil, type[Exception], str]] = {
    "half a pair": (halve, CheckpointError, "only lora_A"),
    "turned": (twist, CheckpointError, "cannot be multiplied"),
    "another width": (narrow, CheckpointError, "another model"),
    "more layers": (deepen, CheckpointError, "layers.2.* the base lacks"),
    "tokens": (tokens, UnsupportedModel, "no LoRA matrix"),
    "twice": (double, CheckpointError, "same tensor"),
    "integers": (integers, UnsupportedModel, "I32"),
    "a norm": (norm, CheckpointError, "another model"),
    "nothing": (dict.clear, CheckpointError, "no LoRA matrices"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit_are_refused(case: str, base: Path, tmp_path: Path) -> None:
    spoil, kind, words = WEIGHTS[case]
    adapter = lora(tmp_path / "adapter", base, LINEAR)
    path = adapter / "adapter_model.safetensors"
    arrays = load_file(path)
    spoil(arrays)
    save_file(arrays, path)
    for make in (
        lambda: convert_adapter(adapter, base, tmp_path / "out.gguf"),
        lambda: convert(base, tmp_path / "out.gguf", adapter=adapter),
    ):
        with pytest.raises(kind, match=words):
            make()
    assert not list(tmp_path.glob("*out.gguf*"))


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"full": (EMBEDDING,)}], ids=str)
def test_what_only_a_merge_can_say_is_refused(settings: Any, base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter", base, LINEAR, **settings)
    with pytest.raises(UnsupportedModel, match="--merge"):
        convert_adapter(adapter, base, tmp_path / "out.gguf")


@pytest.mark.parametrize("family", ["deepseek_v2", "minicpm3"])
def test_what_llama_cpp_would_ignore_is_refused(family: str, tmp_path: Path) -> None:
    base = tiny(tmp_path / "base", family)
    adapter = lora(tmp_path / "adapter", base, ("q_a_proj", "down_proj"))
    with pytest.raises(UnsupportedModel, match=r"adds no adapter to blk\.0\.attn_q_a.*--merge"):
        convert_adapter(adapter, base, tmp_path / "out.gguf")
    other = lora(tmp_path / "other", base, ("o_proj", "down_proj"))
    assert convert_adapter(other, base, tmp_path / "out.gguf").tensors


def test_an_adapter_is_not_quantized(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter", base, LINEAR)
    with pytest.raises(UsageError, match="--merge"):
        convert_adapter(adapter, base, tmp_path / "out.gguf", Options(quant="Q8_0"))
    with pytest.raises(UsageError, match="importance matrix"):
        options = Options(quant="F16", imatrix=tmp_path / "imatrix.gguf")
        convert_adapter(adapter, base, tmp_path / "out.gguf", options)
    done = convert_adapter(adapter, base, tmp_path / "out.gguf", Options(quant="BF16"))
    assert {t.type for t in Gguf(done.path).tensors.values()} == {"BF16"}


def test_a_pickle_is_not_opened(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter", base, LINEAR)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        convert_adapter(adapter, base, tmp_path / "out.gguf")


def test_infinite_values_are_an_error(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter", base, LINEAR)
    path = adapter / "adapter_model.safetensors"
    arrays = load_file(path)
    arrays[f"{ATTENTION}q_proj.lora_A.weight"][3, 5] = np.inf
    save_file(arrays, path)
    for make in (
        lambda: convert_adapter(adapter, base, tmp_path / "out.gguf"),
        lambda: convert(base, tmp_path / "out.gguf", adapter=adapter),
    ):
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            make()
