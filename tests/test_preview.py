"""What a conversion would make, before any weight is read: sizes to the byte, and what fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import LINEAR, lora
from checkpoints import tiny
from hubs import FakeHub, environment, serving
from typer.testing import CliRunner

import convert
from convert import Options
from convert.imatrix import Entry, Imatrix, write_imatrix
from portable import hub
from portable.cli.app import app


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2", {}),
        ("qwen2", {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": True}),
        ("llama", {}),
        ("phi3", {}),
        ("mixtral", {"num_hidden_layers": 1}),
        ("gpt_oss", {}),
        ("bert", {}),
    ],
)
def test_sizes_are_those_of_the_files(tmp_path: Path, family: str, options: Any) -> None:
    folder = tiny(tmp_path / "model", family, **options)
    found = convert.preview(folder, Options())
    quants = [size.quant for size in found.sizes]
    assert quants == [name for name in convert.quant_names() if name in quants]
    assert set(convert.quant_names()) - set(quants) <= {"Q1_0"}
    ready = [size for size in found.sizes if not size.needs_imatrix]
    for size in ready:
        made = convert.convert(folder, tmp_path / "x.gguf", Options(quant=size.quant))
        assert (size.quant, size.size) == (size.quant, made.size)
        assert found.parameters == made.parameters
    blind = {size.quant for size in found.sizes if size.needs_imatrix}
    assert all(name.startswith(("IQ1", "IQ2", "IQ3", "Q2_K_S")) for name in blind)
    assert bool(blind) == (options.get("hidden_size") == 256)


def test_a_merged_adapter_counts(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2", tie_word_embeddings=True)
    trained = lora(tmp_path / "adapter", folder, (*LINEAR, "embed_tokens"))
    found = convert.preview(folder, Options(), adapter=trained)
    made = convert.convert(folder, tmp_path / "x.gguf", adapter=trained)
    assert found.size == made.size > convert.preview(folder, Options()).size


# --- on a hub

REPO = "org/Model-1.5B"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, environment(monkeypatch, tmp_path / "caches", server.url):
        yield server


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("sharded") / "Model-1.5B", "qwen2", shards=2)


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["convert", *arguments, "--dry-run"])
    return done.exit_code, done.stdout, done.stderr


def facts(*arguments: str) -> dict[str, Any]:
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    return json.loads(out)  # type: ignore[no-any-return]


@pytest.mark.parametrize("key", ["ms", "hf"])
def test_of_the_weights_only_the_headers_are_read(
    fake: FakeHub, sharded: Path, tmp_path: Path, key: str
) -> None:
    fake.add(REPO, {path.name: path.read_bytes() for path in sharded.iterdir()})
    said = facts(f"{key}://{REPO}", "-o", str(tmp_path / "x.gguf"))
    made = convert.convert(sharded, tmp_path / "made.gguf")
    assert (said["size"], said["how"], said["quant"]) == (made.size, "store", "Q4_K_M")
    weights = sorted(sharded.glob("*.safetensors"))
    assert said["weights"] == said["to_fetch"] == sum(path.stat().st_size for path in weights)
    assert said["disk"]["fits"] and said["memory"]["needed"] > said["size"]
    for path in weights:
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        assert max(stop for _, stop in fake.state.sent[path.name]) == header
    assert not list(tmp_path.rglob("caches/**/*.safetensors"))
    assert not (tmp_path / "x.gguf").exists()


def test_how_it_would_be_made(
    fake: FakeHub, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, {path.name: path.read_bytes() for path in sharded.iterdir()})
    assert facts(f"ms://{REPO}", "--stream")["how"] == "stream"
    assert facts(str(sharded))["how"] == "here"
    monkeypatch.setattr(hub.Hub, "room", lambda self, listing: (tmp_path, 100_000))
    assert facts(f"ms://{REPO}")["how"] == "stream"
    code, out, err = run(f"ms://{REPO}", "--keep")
    assert code == 5 and "does not" not in out and "leave --keep out" in err


def test_a_disk_that_cannot_hold_the_file_is_said_after_the_table(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=80_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    code, out, err = run(str(sharded), "--quant", "F16")
    assert code == 5 and "does not fit (80.0 kB free)" in out and "smaller --quant" in err
    fits = {line.split()[-1] for line in out.splitlines() if " Q4_0 " in line or " F32 " in line}
    assert fits == {"memory"} and "disk, memory" in out


def test_an_adapter_alone_has_no_dry_run(sharded: Path, tmp_path: Path) -> None:
    trained = lora(tmp_path / "adapter", sharded, LINEAR)
    assert run(str(trained), "--adapter-of", str(sharded))[0] == 2
    assert facts(str(trained), "--adapter-of", str(sharded), "--merge")["how"] == "here"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output", "missing/x.gguf"], "there is no folder"),
        (["--output", "missing"], "neither a folder nor the name of a .gguf file"),
        (["--imatrix", "missing"], "No such file"),
        (["--quant", "IQ2_M"], "needs an importance matrix"),
        (["--json"], "add --dry-run"),
        (["--dry-run", "--report", "r.html"], "makes nothing"),
        (["--dry-run", "--evaluate", "text.txt"], "makes nothing"),
    ],
)
def test_what_is_asked_for_is_judged_before_any_weight_is_fetched(
    fake: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    said: str,
) -> None:
    """IQ2_M needs its matrix only where rows divide by 256, as the shapes in the headers say."""
    monkeypatch.chdir(tmp_path)
    folder = tiny(tmp_path / "Wide", "qwen2", hidden_size=256, intermediate_size=512)
    fake.add(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    done = CliRunner().invoke(app, ["convert", f"ms://{REPO}", "--keep", *flags])
    assert done.exit_code == 2 and said in done.stderr
    sent = fake.state.sent.get("model.safetensors", [])
    assert sum(stop - start for start, stop in sent) < 64 << 10


def test_the_quantizations_that_may_need_a_matrix_are_those_of_wide_rows(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "Wide", "qwen2", hidden_size=256, intermediate_size=512)
    found = convert.preview(folder, Options())
    assert {size.quant for size in found.sizes if size.needs_imatrix} == set(convert.GUIDED)


def test_the_name_says_which_quantization(fake: FakeHub, sharded: Path, tmp_path: Path) -> None:
    fake.add(REPO, {path.name: path.read_bytes() for path in sharded.iterdir()})
    found = facts(f"ms://{REPO}:q8_0", "-o", str(tmp_path))
    assert found["quant"] == "Q8_0" and found["output"].endswith("Model-1.5B-Q8_0.gguf")
    assert facts(f"ms://{REPO}:q8_0", "-q", "Q4_0")["quant"] == "Q8_0"
    code, _, said = run(f"ms://{REPO}:Q9_9")
    assert code == 2 and "unknown quantization" in said


def test_a_matrix_is_not_replaced_by_what_is_made_with_it(sharded: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "m.gguf"
    entry = Entry(np.ones(4, np.float32), np.ones(1, np.float32))
    write_imatrix(Imatrix({"blk.0.attn_q.weight": entry}, ("text",), 1, 512), matrix)
    before = matrix.read_bytes()
    code, _, said = run(str(sharded), "--imatrix", str(matrix), "-o", str(matrix))
    assert code == 2 and "is what is read" in said and matrix.read_bytes() == before
