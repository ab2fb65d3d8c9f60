"""A converted adapter at work: it answers as the merged model does, and what is none is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from adapters import LINEAR, lora
from checkpoints import tiny
from serving import cli, until

from convert import Options, convert, convert_adapter
from portable.engine.config import EngineConfig
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.errors import ModelFileError, PortableError, UnsupportedModel

F32 = Options(quant="F32")


def logits(model: Path, adapter: Path | None = None) -> np.ndarray:
    llama = Llama(EngineConfig(model, context=64, slots=1, threads=1, adapter=adapter))
    assert llama.info().adapter == (adapter.name if adapter else "")
    tokens = [1, 5, 9, 20, 33]
    sequence = Sequence("x", tokens, SamplingParams(), slot=0)
    found = llama.decode([Slice(sequence, 0, len(tokens))]).copy()
    llama.close()
    return found


def base_of(family: str, folder: Path) -> tuple[Path, Path]:
    """A tiny checkpoint and its GGUF."""
    checkpoint = tiny(folder / "base", family)
    return checkpoint, convert(checkpoint, folder / "base.gguf", F32).path


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("qwen2", LINEAR),
        ("llama", LINEAR),
        ("mistral", ("embed_tokens", "lm_head", "q_proj")),
        ("qwen3_moe", LINEAR),
        ("phi3", ("qkv_proj", "gate_up_proj")),
        ("internlm2", ("wqkv", "w1")),
        ("baichuan", ("W_pack", "down_proj")),
    ],
)
def test_it_answers_as_the_merged_model_does(
    family: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    checkpoint, base = base_of(family, tmp_path)
    settings = {"use_rslora": True, "alpha_pattern": {"q_proj": 8}}
    folder = lora(tmp_path / "adapter", checkpoint, targets, **settings)
    adapter = convert_adapter(folder, checkpoint, tmp_path / "adapter.gguf").path
    merged = convert(checkpoint, tmp_path / "merged.gguf", F32, adapter=folder).path
    found, wanted = logits(base, adapter), logits(merged)
    assert np.abs(logits(base) - wanted).max() > 0.5
    np.testing.assert_allclose(found, wanted, atol=0.01)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base, another architecture, and an adapter of the base."""
    root = tmp_path_factory.mktemp("adapter")
    checkpoint, base = base_of("qwen2", root)
    folder = lora(root / "adapter", checkpoint, LINEAR)
    other = convert(tiny(root / "other", "llama"), root / "other.gguf", F32).path
    return base, other, convert_adapter(folder, checkpoint, root / "adapter.gguf").path


def test_an_adapter_of_another_model_is_refused(made: tuple[Path, Path, Path]) -> None:
    _, other, adapter = made
    with pytest.raises(ModelFileError, match=r"does not fit.*mismatch"):
        logits(other, adapter)


def test_what_is_no_adapter_is_refused(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, _, adapter = made
    data = adapter.read_bytes()
    cut, text, bent = (tmp_path / f"{name}.gguf" for name in ("cut", "text", "bent"))
    cut.write_bytes(data[: len(data) // 20])
    text.write_text("not an adapter")
    # The number of a key's type: llama.cpp aborts when it reads text as a float.
    at = data.index(b"adapter.lora.alpha") + len("adapter.lora.alpha")
    bent.write_bytes(data[:at] + b"\x04" + data[at + 1 :])
    for path in (cut, text, bent, tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(ModelFileError, match=path.name):
            logits(base, path)
    with pytest.raises(ModelFileError, match=r"general\.type is not adapter"):
        logits(base, base)


def written(
    path: Path, arch: str, name: str, a: tuple[int, ...], b: tuple[int, ...], **keys: list[int]
) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8)
    for key, value in keys.items():
        writer.add_array(key, value)
    writer.add_tensor(f"{name}.lora_a", np.zeros(a, np.float32))
    writer.add_tensor(f"{name}.lora_b", np.zeros(b, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("name", "a", "b", "error"),
    [
        ("token_embd.weight", (300, 8), (64, 8), UnsupportedModel),  # tied: it would abort
        ("token_embd.weight", (300, 4), (64, 8), ModelFileError),
        ("blk.0.attn_q.weight", (3, 8, 64), (3, 64, 8), ModelFileError),
        ("blk.0.attn_q.weight", (8, 64), (2, 64, 8), ModelFileError),
        ("blk.0.attn_q.weight", (8, 64), (32, 8), ModelFileError),
    ],
)
def test_shapes_that_llama_cpp_would_abort_on(
    name: str,
    a: tuple[int, ...],
    b: tuple[int, ...],
    error: type[PortableError],
    made: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "bad.gguf", "qwen2", name, a, b)
    with pytest.raises(error, match=r"bad\.gguf"):
        logits(made[0], path)


def test_what_works_from_a_token_on_is_refused(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    shapes = ("blk.0.attn_q.weight", (8, 64), (64, 8))
    plain = written(tmp_path / "plain.gguf", "qwen2", *shapes)
    assert np.array_equal(logits(made[0], plain), logits(made[0]))  # zeros add nothing
    keys = {"adapter.alora.invocation_tokens": [1, 2]}
    with pytest.raises(UnsupportedModel, match="aLoRA"):
        logits(made[0], written(tmp_path / "alora.gguf", "qwen2", *shapes, **keys))


def test_the_server_runs_it_and_says_so(made: tuple[Path, Path, Path]) -> None:
    base, _, adapter = made
    flags = ("--adapter", str(adapter), "--port", "0", "--threads", "1", "--context", "256")
    with cli(str(base), *flags) as server:
        until(server.is_ready, 60)
        assert "1 threads, with the adapter adapter.gguf" in server.log


def test_the_server_refuses_a_missing_one_before_it_listens(made: tuple[Path, Path, Path]) -> None:
    with cli(str(made[0]), "--adapter", "absent.gguf", "--port", "0") as server:
        assert server.ended() == 3
        assert "absent.gguf" in server.log
