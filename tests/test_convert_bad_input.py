"""Checkpoints that cannot be converted: one clear message of the right class, and no file."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import shlex
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import tiny
from safetensors.numpy import load_file, save_file

from convert import Options, check_config, convert
from convert.checkpoint import Checkpoint
from portable.errors import (
    CheckpointError,
    DiskError,
    PortableError,
    UnsupportedModel,
    UsageError,
)


def refused(folder: Path, kind: type[PortableError], match: str, **options: Any) -> PortableError:
    """Converts, and expects this error, a hint, and nothing written."""
    out = folder.parent / "out" / "model.gguf"
    out.parent.mkdir(exist_ok=True)
    with pytest.raises(kind, match=match) as caught:
        convert(folder, out, Options(**options))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert list(out.parent.iterdir()) == []
    return caught.value


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny(tmp_path / "model", "llama")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny(tmp_path / "model", "qwen2", shards=3)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    found = json.loads(path.read_text("utf-8"))
    change(found)
    path.write_text(json.dumps(found), "utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


def edit_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the JSON header and leaves the data as it was."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


# The folder ------------------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", CheckpointError, "No such file")
    refused(tmp_path / ("x" * 300), CheckpointError, "cannot be used")


def test_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    refused(tmp_path / "x", CheckpointError, "is not a folder")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    refused(tmp_path / "x", CheckpointError, r"has no config\.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file(model: Path, name: str) -> None:
    (model / name).unlink()
    refused(model, CheckpointError, f"has no {name}")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "nul", "[" * 100_000, '"a"', "\ufeff{}"])
def test_a_json_file_that_is_none(model: Path, name: str, text: str) -> None:
    (model / name).write_text(text, "utf-8")
    refused(model, CheckpointError, name.replace(".", r"\."))


def test_bytes_that_are_no_text(model: Path) -> None:
    (model / "config.json").write_bytes(b"\xff\xfe\x00")
    refused(model, CheckpointError, r"config\.json cannot be read")


def test_pickles_are_never_opened(model: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return marker.touch, ()

    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    error = refused(model, CheckpointError, "pickle")
    assert "safetensors" in error.hint
    assert not marker.exists()


def test_code_of_a_checkpoint_is_never_run(model: Path, tmp_path: Path) -> None:
    (model / "modeling_x.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    edit_json(model / "config.json", lambda c: c.update(auto_map={"AutoModel": "modeling_x.X"}))
    convert(model, tmp_path / "out.gguf")
    assert not (tmp_path / "marker").exists()
    assert "modeling_x" not in sys.modules


# config.json -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["GPTBigCodeForCausalLM", "Qwen2VLForConditionalGeneration", "X" * 50]
)
def test_an_unknown_architecture_is_told_before_weights(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=name) as caught:
        check_config({"architectures": [name], "model_type": "x"})
    assert caught.value.exit_code == 3
    assert "Qwen2ForCausalLM" in caught.value.hint


@pytest.mark.parametrize("value", [None, [], "Qwen2ForCausalLM", [7], {}])
def test_no_architecture(value: Any) -> None:
    with pytest.raises(CheckpointError, match="architecture"):
        check_config({"architectures": value})


@pytest.mark.parametrize("method", ["gptq", "awq", "mxfp4", "bitsandbytes", "compressed-tensors"])
def test_quantized_checkpoints_name_their_method(model: Path, method: str) -> None:
    edit_json(
        model / "config.json", lambda c: c.update(quantization_config={"quant_method": method})
    )
    refused(model, UnsupportedModel, f"already quantized .{method}")


LIES: list[tuple[str, Any]] = [
    (key, value)
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                "intermediate_size", "max_position_embeddings", "num_key_value_heads")
    for value in (0, -1, "64", 1.5, True, 10**9, 10**30, [4], {})
    if (key, value) != ("max_position_embeddings", 10**9)
] + [
    ("num_hidden_layers", 1),
    ("num_hidden_layers", 3),
    ("num_hidden_layers", 512),
    ("num_attention_heads", 3),
    ("num_key_value_heads", 3),
    ("vocab_size", 319),
    ("head_dim", 15),
    ("head_dim", "16"),
    ("rms_norm_eps", 0),
    ("rms_norm_eps", "small"),
    ("rms_norm_eps", math.nan),
    ("rms_norm_eps", 10**400),
    ("rope_theta", 1e308),
    ("rope_theta", -1.0),
    ("rope_theta", "10000"),
    ("rope_theta", math.inf),
    ("rope_scaling", "linear"),
    ("rope_scaling", {"rope_type": "llama3", "factor": "x"}),
    ("rope_scaling", {"rope_type": "llama3", "low_freq_factor": 4, "high_freq_factor": 1}),
    ("rope_scaling", {"type": "yarn", "factor": 2.0}),
    ("tie_word_embeddings", "yes"),
    ("tie_word_embeddings", 7),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), LIES, ids=str)
def test_a_lie_in_config_json(model: Path, key: str, value: Any) -> None:
    edit_json(model / "config.json", lambda c: c.update({key: value}))
    refused(model, CheckpointError, r"config\.json|missing from the weights|not known in")


def test_an_unknown_rope_scaling(model: Path) -> None:
    edit_json(model / "config.json", lambda c: c.update(rope_scaling={"rope_type": "longrope"}))
    refused(model, UnsupportedModel, "longrope")


# Weights ---------------------------------------------------------------------------------------


def test_a_clone_without_git_lfs_is_told_all_files_and_the_command(model: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "pytorch_model.bin"):
        (model / name).write_text(text)
    names = r"^config\.json, model\.safetensors, tokenizer\.json are git-lfs pointers"
    error = refused(model, CheckpointError, names)
    assert error.hint == f"run: git -C {shlex.quote(str(model))} lfs pull"


@pytest.mark.parametrize("data", [b"", b"x", b"<!DOCTYPE html><html>", b"\xff" * 64, bytes(64)])
def test_a_file_that_is_no_safetensors(model: Path, data: bytes) -> None:
    (model / "model.safetensors").write_bytes(data)
    refused(model, CheckpointError, r"model\.safetensors is not a complete")


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.9, 0.999])
def test_a_download_cut_short(model: Path, keep: float) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: int(len(data) * keep)])
    refused(model, CheckpointError, "complete|incomplete")


def test_bytes_after_the_end(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"more")
    refused(model, CheckpointError, "no tensor owns")


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no dtype": lambda e: e.pop("dtype"),
    "dtype is odd": lambda e: e.update(dtype="Q4"),
    "dtype is a list": lambda e: e.update(dtype=[1]),
    "shape is a number": lambda e: e.update(shape=4),
    "negative shape": lambda e: e.update(shape=[-1, -1]),
    "huge shape": lambda e: e.update(shape=[2**62, 2**62]),
    "boolean shape": lambda e: e.update(shape=[True]),
    "one offset": lambda e: e.update(data_offsets=[0]),
    "offsets turned": lambda e: e.update(data_offsets=e["data_offsets"][::-1]),
    "offsets are text": lambda e: e.update(data_offsets=["a", "b"]),
    "far away": lambda e: e.update(data_offsets=[n + 10**12 for n in e["data_offsets"]]),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_broken_header(model: Path, case: str) -> None:
    edit_header(model, lambda header: HEADERS[case](header["model.norm.weight"]))
    refused(model, CheckpointError, r"model\.safetensors (has a broken entry|is incomplete)")


@pytest.mark.parametrize("text", [b"{ ", b"[]", b"1 ", b"[" * 50_000])
def test_a_header_that_is_no_object(model: Path, text: bytes) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    refused(model, CheckpointError, "has a header that is not")


def test_a_tensor_twice_in_one_header(model: Path) -> None:
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = b"{" + entry + b"," + entry + b"}"
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refused(model, CheckpointError, "names a tensor twice")


def test_a_missing_tensor_is_named(model: Path) -> None:
    edit_weights(model, lambda a: a.pop("model.layers.1.mlp.up_proj.weight"))
    refused(model, CheckpointError, r"model\.layers\.1\.mlp\.up_proj\.weight is missing")


def test_a_missing_output_that_nothing_ties(model: Path) -> None:
    edit_weights(model, lambda a: a.pop("lm_head.weight"))
    refused(model, CheckpointError, r"lm_head\.weight is missing")


@pytest.mark.parametrize("name", ["model.layers.0.mlp.gate.weight", "visual.patch_embed.weight"])
def test_a_tensor_left_over_is_named(model: Path, name: str) -> None:
    edit_weights(model, lambda a: a.update({name: np.zeros((4, 4), np.float32)}))
    refused(model, CheckpointError, f"{name} is not known in llama models")


def test_a_wrong_shape_is_named_with_both(model: Path) -> None:
    edit_weights(model, lambda a: a.update({"model.norm.weight": np.ones(63, np.float32)}))
    refused(model, CheckpointError, r"model\.norm\.weight has shape \[63\].*\[64\]")


@pytest.mark.parametrize("dtype", [np.float64, np.int8, ml_dtypes.float8_e4m3fn])
def test_numbers_of_another_kind(model: Path, dtype: Any) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(model, lambda a: a.update({name: a[name].astype(dtype)}))
    refused(model, UnsupportedModel, "is stored as")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"])
def test_one_value_that_is_no_number(tmp_path: Path, value: float, dtype: str, name: str) -> None:
    model = tiny(tmp_path / "model", "llama", dtype=dtype)

    def spoil(arrays: dict[str, Any]) -> None:
        arrays[name].reshape(-1)[-3] = value

    edit_weights(model, spoil)
    for quant in ("Q4_K_M", "F16"):
        refused(model, CheckpointError, f"{name} in model.safetensors holds NaN", quant=quant)


def test_values_too_large_for_f16_say_so(tmp_path: Path) -> None:
    model = tiny(tmp_path / "model", "llama", dtype="F32")
    edit_weights(model, lambda a: a["lm_head.weight"].__setitem__((0, 0), 1e6))
    assert "BF16" in refused(model, CheckpointError, "too large for F16", quant="F16").hint
    convert(model, tmp_path / "fine.gguf", Options(quant="BF16"))


# Shards ----------------------------------------------------------------------------------------


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, CheckpointError, r"1 of 3 .*model-00002-of-00003\.safetensors")


def test_a_missing_shard_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    (sharded / "model-00003-of-00003.safetensors").unlink()
    refused(sharded, CheckpointError, r"model-00003-of-00003\.safetensors")


def test_shards_without_an_index_convert(sharded: Path, tmp_path: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    assert convert(sharded, tmp_path / "out.gguf").tensors == 26


@pytest.mark.parametrize(
    "shard",
    ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin", 7, None, "a\0b",
     "C:x.safetensors", "..\\x.safetensors", ".hidden.safetensors", "../model.safetensors",
     "\ud800.safetensors", "x" * 300 + ".safetensors", "a\nb.safetensors"],
)  # fmt: skip
def test_an_index_that_leaves_the_folder(sharded: Path, shard: Any) -> None:
    path = sharded / "model.safetensors.index.json"
    edit_json(path, lambda i: i["weight_map"].update({"model.norm.weight": shard}))
    refused(sharded, CheckpointError, "which is no file name")


@pytest.mark.parametrize("value", [None, [], {}, "x", 5])
def test_an_index_without_a_map(sharded: Path, value: Any) -> None:
    edit_json(sharded / "model.safetensors.index.json", lambda i: i.update(weight_map=value))
    refused(sharded, CheckpointError, "no weight_map")


def test_an_index_that_names_absent_tensors(sharded: Path) -> None:
    first = "model-00001-of-00003.safetensors"
    path = sharded / "model.safetensors.index.json"
    edit_json(path, lambda i: i["weight_map"].update(ghost=first))
    refused(sharded, CheckpointError, "names tensors that no shard has: ghost")


def test_an_index_that_lacks_tensors(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    edit_json(path, lambda i: i["weight_map"].pop("model.norm.weight"))
    refused(sharded, CheckpointError, r"lacks tensors: model\.norm\.weight")


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    (sharded / "model-00003-of-00003.safetensors").write_bytes(
        (sharded / "model-00002-of-00003.safetensors").read_bytes()
    )
    refused(sharded, CheckpointError, "is in model-00002.* and in model-00003")


# The target ------------------------------------------------------------------------------------


def outputs(tmp_path: Path, model: Path) -> dict[str, Path]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "fifo")
    return {
        "a folder": tmp_path / "folder",
        "symbolic link": tmp_path / "link",
        "not an ordinary file": tmp_path / "fifo",
        "there is no folder": tmp_path / "no" / "where.gguf",
        "ordinary file|no permission": Path("/dev/full"),
        "part of the checkpoint": model / "model.safetensors",
        "control characters": tmp_path / "a\nb.gguf",
        "control characters ": tmp_path / "a\ud800.gguf",
        "not a usable file name": tmp_path / ("x" * 250),
        "cannot be used": tmp_path / ("y" * 300) / "x.gguf",
        "is a folder|not a usable": Path("/"),
    }


def test_a_target_that_cannot_be_written(tmp_path: Path, model: Path) -> None:
    before = (model / "model.safetensors").read_bytes()
    for match, path in outputs(tmp_path, model).items():
        with pytest.raises(UsageError, match=match.strip()) as caught:
            convert(model, path)
        assert caught.value.exit_code == 2
    assert (model / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("threads", [0, -1, 513])
def test_a_wrong_thread_count(model: Path, threads: int) -> None:
    refused(model, UsageError, "threads", threads=threads)


def test_an_unknown_quantization(model: Path) -> None:
    refused(model, UsageError, "unknown quantization", quant="Q4_K_XL")


@pytest.mark.parametrize("quant", ["IQ2_XXS", "IQ1_S", "IQ2_M"])
def test_an_importance_matrix_is_asked_for_before_any_work(tmp_path: Path, quant: str) -> None:
    wide = {"hidden_size": 256, "intermediate_size": 256}
    model = tiny(tmp_path / "model", "qwen2", **wide)
    refused(model, UsageError, "importance matrix", quant=quant)


CARDS = {
    "no yaml": "---\n[unclosed\n---\n",
    "a list": "---\n- a\n---\n",
    "numbers": "---\nlicense: 7\ntags: [1, 2]\nlanguage: no\ndatasets: {a: b}\n---\n",
    "nested": "---\nlicense: {a: b}\nname: [x]\nbase_model: [{name: 3}]\n---\n",
    "never closed": "---\nlicense: mit\n",
    "dates": "---\nversion: 2024-01-01\nauthor: null\nmodel_name: 1.5\n---\n",
}


@pytest.mark.parametrize("case", CARDS)
def test_an_odd_model_card_never_stops_a_conversion(model: Path, tmp_path: Path, case: str) -> None:
    (model / "README.md").write_text(CARDS[case], "utf-8")
    made = convert(model, tmp_path / "out.gguf")
    assert all("\n" not in warning for warning in made.warnings)
    assert case not in ("no yaml", "nested") or "README.md" in str(made.warnings) or made.warnings


@pytest.mark.parametrize("value", ["warm", None, [1], 1e300, 20.0, True])
def test_odd_sampling_defaults_never_stop_a_conversion(
    model: Path, tmp_path: Path, value: Any
) -> None:
    settings = {"top_k": value, "temperature": value, "repetition_penalty": value}
    (model / "generation_config.json").write_text(json.dumps(settings))
    assert convert(model, tmp_path / "out.gguf").size


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"_name_or_path": 5}),
        ("config.json", {"_name_or_path": "/home/x/y"}),
        ("config.json", {"bos_token_id": [1, 2], "eos_token_id": "x", "pad_token_id": None}),
        ("tokenizer_config.json", {"chat_template": "\ud800"}),
        ("tokenizer_config.json", {"chat_template": "a\0b"}),
    ],
)
def test_odd_values_convert_or_are_told(
    model: Path, tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    edit_json(model / name, lambda found: found.update(change))
    try:
        convert(model, tmp_path / "out.gguf")
    except CheckpointError as error:
        assert "\ud800" in str(change.values()) or "cannot store" in error.message
        assert not (tmp_path / "out.gguf").exists()


def test_a_special_id_beyond_the_tokens(model: Path) -> None:
    edit_json(model / "config.json", lambda c: c.update(bos_token_id=10**6))
    edit_json(model / "tokenizer_config.json", lambda c: c.pop("bos_token"))
    refused(model, CheckpointError, "bos_token_id is 1000000")


def test_a_disk_that_cannot_be_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() >= 8:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    monkeypatch.setattr(Path, "open", lambda path, *args, **options: Broken(path))
    with pytest.raises(DiskError, match="cannot be read: Input/output error"):
        Checkpoint(model).open_tensors()
