"""From what the user calls a model to one GGUF on this disk, with real (tiny) conversions."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import tiny
from hubs import FakeHub, environment, serving

from portable import catalogue, store
from portable.errors import (
    CheckpointError,
    ModelFileError,
    NetworkError,
    PortableError,
    UnsupportedModel,
    UsageError,
)
from portable.obtain import Model, Wish, fetch_checkpoint, obtain
from portable.progress import silent

REPO = "org/Tiny-1.5B-Chat"
QWEN = "Qwen/Qwen2.5-0.5B-Instruct"
WISH = Wish(None, None, False, print, silent)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, environment(monkeypatch, tmp_path / "caches", server.url):
        yield server


@pytest.fixture
def unplugged(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, NOWHERE)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for the embedded model, whether or not its package is installed."""
    file = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF...")
    monkeypatch.setattr(catalogue.Embedded, "path", lambda self: file)
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("source") / "Tiny-1.5B-Chat", "qwen2")


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()} | {"junk.bin": b"x" * 5000}


def get(model: str | None, **options: Any) -> Model:
    said: list[str] = options.pop("said", [])
    return obtain(model, say=said.append, **options)


def is_gguf(path: Path) -> bool:
    return path.read_bytes()[:4] == b"GGUF"


# --- files and folders


def test_a_gguf_is_used_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "My Model.gguf"
    path.write_bytes(b"GGUF...")
    model = get(str(path))
    assert (model.path, model.id, model.full_id) == (path, "My Model", None)
    assert get(str(tmp_path)).path == path


def bad_paths(folder: Path) -> dict[str, tuple[Path, type[PortableError], str]]:
    (folder / "a.gguf.partial").write_bytes(b"GGUF")
    (folder / "html.gguf").write_bytes(b"<html>")
    (folder / "empty.gguf").touch()
    (folder / "empty").mkdir()
    os.mkfifo(folder / "fifo.gguf")
    return {
        "missing": (folder / "nope.gguf", UsageError, "no such file"),
        "partial": (folder / "a.gguf.partial", ModelFileError, "unfinished"),
        "html": (folder / "html.gguf", ModelFileError, "not a GGUF"),
        "zero bytes": (folder / "empty.gguf", ModelFileError, "not a GGUF"),
        "empty folder": (folder / "empty", CheckpointError, "no config.json"),
        "fifo": (folder / "fifo.gguf", ModelFileError, "not a regular file"),
        "too long": (folder / ("x" * 300 + ".gguf"), UsageError, "cannot open"),
        "NUL": (folder / "a\0.gguf", UsageError, "cannot open"),
    }


@pytest.mark.parametrize(
    "case",
    ["missing", "partial", "html", "zero bytes", "empty folder", "fifo", "too long", "NUL"],
)
def test_what_is_no_model_is_said_clearly(case: str, tmp_path: Path) -> None:
    path, kind, text = bad_paths(tmp_path)[case]
    with pytest.raises(kind, match=text) as caught:
        get(str(path))
    assert caught.value.hint or "cannot open" in text


def test_a_folder_of_two_ggufs_asks_which(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"a\.gguf, b\.gguf"):
        get(str(tmp_path))


def test_a_split_gguf_of_this_disk_needs_all_its_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in SHARDS]
    paths[1].write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=rf"split into 2 files, and 1 .*: {SHARDS[0]}"):
        get(str(paths[1]))
    paths[0].write_bytes(b"GGUF")
    for name in (*paths, tmp_path):
        assert (get(str(name)).path, get(str(name)).id) == (paths[0], "m-Q4_K_M")


def test_git_lfs_pointers_are_named_with_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "my clone"
    folder.mkdir()
    for name in SHARDS:
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 7\n")
    with pytest.raises(ModelFileError, match=", ".join(SHARDS)) as caught:
        get(str(folder))
    assert caught.value.hint == f"run: git -C '{folder}' lfs pull"


def test_a_gguf_keeps_its_quant(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="cannot be chosen"):
        get(str(tmp_path / "a.gguf"), quant="Q8_0")


def test_a_checkpoint_folder_is_converted_once(fake: FakeHub, checkpoint: Path) -> None:
    said: list[str] = []
    first = get(str(checkpoint), quant="q8_0", said=said)
    assert is_gguf(first.path) and first.id == "Tiny-1.5B-Chat"
    assert get(str(checkpoint), quant="Q8_0", said=said) == first
    assert said[0] == "converting Tiny-1.5B-Chat to Q8_0"
    assert said[1:] == ["verified: file, values, load, tokens, template, generation"]
    assert get(str(checkpoint), quant="F16", said=said).path != first.path
    assert not fake.state.log


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_clone_of_a_repository_is_a_checkpoint(
    fake: FakeHub, checkpoint: Path, tmp_path: Path
) -> None:
    origin, clone = shutil.copytree(checkpoint, tmp_path / "origin"), tmp_path / "Tiny clone"
    person = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "-q"], ["add", "."], [*person, "commit", "-q", "-m", "Model"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    subprocess.run(["git", "clone", "-q", origin, clone], check=True)
    model = get(str(clone), quant="Q8_0")
    assert is_gguf(model.path) and model.id == "Tiny clone"


def test_a_changed_folder_is_converted_again(fake: FakeHub, tmp_path: Path) -> None:
    folder, said = tiny(tmp_path / "Tiny", "qwen2"), []  # type: tuple[Path, list[str]]
    get(str(folder), quant="F16", said=said)
    os.utime(folder / "config.json", (1, 1))
    get(str(folder), quant="F16", said=said)
    assert [line for line in said if line.startswith("converting")] == [
        "converting Tiny to F16"
    ] * 2


# --- hub ids


@pytest.mark.parametrize(("scheme", "hub"), [("", "ms"), ("ms://", "ms"), ("hf://", "hf")])
def test_a_hub_model_is_downloaded_and_converted_once(
    fake: FakeHub, checkpoint: Path, scheme: str, hub: str
) -> None:
    fake.add(REPO, files(checkpoint))
    phases: set[str] = set()
    model = get(scheme + REPO, quant="Q8_0", progress=lambda phase, *_: phases.add(phase))
    assert is_gguf(model.path) and phases > {"downloading"}
    assert (model.id, model.full_id) == ("Tiny-1.5B-Chat", REPO)
    assert not fake.state.asked("junk.bin")
    record = store.find(hub, REPO, "Q8_0")
    assert record and record.commit == fake.state.repos[REPO].commit
    fake.state.log.clear()
    assert get(scheme + REPO, quant="Q8_0") == model and not fake.state.log


def test_unsupported_is_said_before_weights(fake: FakeHub, checkpoint: Path) -> None:
    strange = b'{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}'
    fake.add(REPO, {**files(checkpoint), "config.json": strange})
    with pytest.raises(UnsupportedModel, match="Mamba"):
        get(REPO)
    assert not fake.state.asked(".safetensors")


def test_pickle_only_is_refused_before_download(fake: FakeHub) -> None:
    fake.add(REPO, {"config.json": b"{}", "pytorch_model.bin": b"x" * 3000})
    with pytest.raises(CheckpointError, match=r"pickle files like pytorch_model\.bin"):
        get(REPO)
    assert not fake.state.asked("FilePath")


def test_revision_by_name_or_flag(fake: FakeHub, checkpoint: Path) -> None:
    fake.add(REPO, files(checkpoint), revisions=("v1",))
    model = get(f"hf://{REPO}@v1:q8_0")
    assert store.find("hf", REPO, "Q8_0", "v1") and model.path.exists()
    assert get(f"hf://{REPO}", revision="v1", quant="Q8_0") == model
    with pytest.raises(UsageError, match="revision v2"):
        get(f"{REPO}@v2")


def ggufs(*names: str) -> dict[str, bytes]:
    return {name: b"GGUF" + name.encode() * 300 for name in ("mmproj-F16.gguf", *names)}


@pytest.mark.parametrize(
    ("ask", "names", "chosen"),
    [
        ("", ["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "m-Q4_K_M.gguf"),
        ("", ["m-Q8_0.gguf", "m-Q5_0.gguf"], "m-Q5_0.gguf"),
        (":q8_0", ["m.Q8_0.gguf", "m.Q4_K_M.gguf"], "m.Q8_0.gguf"),
        (":Q4_K_S", ["sub/m-q4_k_s.gguf", "m-Q4_K_M.gguf"], "sub/m-q4_k_s.gguf"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "hf://"])
def test_a_ready_gguf_is_taken_from_the_hub(
    fake: FakeHub, scheme: str, ask: str, names: list[str], chosen: str
) -> None:
    content = fake.add(REPO, ggufs(*names)).files
    model = get(scheme + REPO + ask)
    assert model.path.read_bytes() == content[chosen]
    fake.state.log.clear()
    assert get(scheme + REPO + ask) == model and not fake.state.log


def test_a_gguf_repository_without_the_quant_lists_what_it_has(fake: FakeHub) -> None:
    fake.add(REPO, ggufs("m-Q8_0.gguf", *SHARDS))
    with pytest.raises(UsageError) as caught:
        get(f"{REPO}:Q2_K")
    assert "no Q2_K file" in caught.value.message
    assert caught.value.hint == f"it has m-Q8_0.gguf (3.3 kB), {SHARDS[0]} (16.8 kB)"


SHARDS = [f"m-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)]


@pytest.mark.parametrize("scheme", ["ms://", "hf://"])
def test_a_split_gguf_arrives_whole(fake: FakeHub, scheme: str) -> None:
    content = fake.add(REPO, ggufs(*SHARDS, "m-Q8_0.gguf")).files
    model = get(scheme + REPO)
    assert model.path.name == SHARDS[0]
    assert [model.path.with_name(n).read_bytes() for n in SHARDS] == [content[n] for n in SHARDS]
    fake.state.log.clear()
    assert get(scheme + REPO) == model and not fake.state.log
    model.path.with_name(SHARDS[1]).unlink()
    assert get(scheme + REPO) == model and model.path.with_name(SHARDS[1]).is_file()


def test_a_repository_that_lacks_a_part_says_which(fake: FakeHub) -> None:
    fake.add(REPO, ggufs(SHARDS[0]))
    with pytest.raises(ModelFileError, match=f"lacks 1 of 2 parts: {SHARDS[1]}"):
        get(REPO)
    assert not fake.state.asked("FilePath")


def test_a_whole_file_is_taken_before_a_split_one(fake: FakeHub) -> None:
    fake.add(REPO, ggufs(*SHARDS, "z-Q4_K_M.gguf", "a.imatrix.gguf"))
    assert get(REPO).path.name == "z-Q4_K_M.gguf"


# --- names


def test_a_known_name_brings_its_sampling_and_the_hub_ids_suffix(
    fake: FakeHub, checkpoint: Path
) -> None:
    fake.add(QWEN, files(checkpoint))
    model = get("qwen2.5-0.5b:q8_0")
    assert (model.id, model.full_id) == ("Qwen2.5-0.5B-Instruct", QWEN)
    assert "qwen2.5-0.5b-instruct" in model.aliases
    assert model.sampling["top_k"] == 20
    assert get(QWEN, quant="Q8_0") == model


def test_a_scheme_before_a_known_name_chooses_the_hub(fake: FakeHub, checkpoint: Path) -> None:
    fake.add("unsloth/Llama-3.2-1B-Instruct", files(checkpoint))
    model = get("hf://llama-3.2-1b-instruct", quant="Q8_0")
    assert model.full_id == "unsloth/Llama-3.2-1B-Instruct"


@pytest.mark.parametrize("name", ["qwen2.5-0.5b-instuct", "Qwen/Qwen2.5-0.5B-Instuct"])
def test_a_misspelt_name_gets_a_suggestion(fake: FakeHub, name: str) -> None:
    with pytest.raises(UsageError, match=r"did you mean .*qwen2\.5-0\.5b-instruct"):
        get(name)


def test_the_embedded_model_by_name_needs_no_hub(fake: FakeHub, embedded: Path) -> None:
    model = get("SmolLM2-135M-Instruct")
    assert (model.path, model.id) == (embedded, "SmolLM2-135M-Instruct")
    assert get("smollm2:135m", quant="q4_1").path == embedded
    assert not fake.state.log
    with pytest.raises(UsageError, match="HuggingFaceTB"):
        get("smollm2:135m", quant="Q8_0")


# --- no name


def test_no_hub_means_the_embedded_model_and_says_so(unplugged: None, embedded: Path) -> None:
    said: list[str] = []
    assert get(None, said=said).path == embedded
    assert "neither ModelScope" in said[0] and said[0].endswith("embedded SmolLM2-135M-Instruct")


def test_a_hub_that_answers_gives_the_default(
    fake: FakeHub, embedded: Path, checkpoint: Path
) -> None:
    fake.add(QWEN, files(checkpoint))
    said: list[str] = []
    model = get(None, quant="Q8_0", said=said)
    assert model.full_id == QWEN
    assert said[0] == "no model named: using Qwen2.5-0.5B-Instruct from ModelScope"


def test_the_default_of_the_store_needs_no_hub(
    fake: FakeHub, embedded: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(QWEN, files(checkpoint))
    quant = catalogue.load()[catalogue.DEFAULT].quant
    model = get(QWEN, quant=quant)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", NOWHERE)
    fake.state.log.clear()
    said: list[str] = []
    assert get(None, said=said) == model and not fake.state.log
    assert "which is on this disk" in said[0]


def test_a_hub_that_breaks_means_the_embedded_model(fake: FakeHub, embedded: Path) -> None:
    fake.add(QWEN, {"config.json": b"not json", "model.safetensors": b"x"})
    said: list[str] = []
    assert get(None, said=said).path == embedded
    assert "not JSON: " in said[-1] and said[-1].endswith("embedded SmolLM2-135M-Instruct")


def test_no_hub_and_nothing_embedded(unplugged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue.Embedded, "path", lambda self: None)
    with pytest.raises(NetworkError, match=r"portable-llm\[demo\]"):
        get(None)


@pytest.mark.parametrize("name", ["qwen2.5-0.5b-instruct", QWEN, f"hf://{QWEN}"])
def test_a_named_model_is_never_replaced(unplugged: None, embedded: Path, name: str) -> None:
    with pytest.raises(NetworkError) as caught:
        get(name)
    assert caught.value.exit_code == 7 and "_ENDPOINT" in caught.value.hint


# --- offline


def test_offline_opens_no_socket(
    fake: FakeHub, embedded: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, files(checkpoint))
    model = get(f"hf://{REPO}", quant="Q8_0")
    monkeypatch.setattr("socket.socket", None)
    assert get(f"hf://{REPO}", quant="Q8_0", offline=True) == model
    assert is_gguf(get(f"hf://{REPO}", quant="F16", offline=True).path)
    assert get(None, offline=True).path == embedded
    with pytest.raises(NetworkError, match="not on this disk"):
        get("org/other", offline=True)


# --- for a conversion elsewhere


def test_fetch_checkpoint_gives_the_folder_and_the_name(fake: FakeHub, checkpoint: Path) -> None:
    fake.add(REPO, files(checkpoint))
    got = fetch_checkpoint(REPO, WISH)
    assert (got.name, got.full_id) == ("Tiny-1.5B-Chat", REPO)
    assert (got.folder / "model.safetensors").is_file()
    assert fetch_checkpoint(str(checkpoint), WISH).folder == checkpoint
    assert not store.listing()


def test_fetch_checkpoint_refuses_a_gguf(fake: FakeHub, tmp_path: Path) -> None:
    fake.add(REPO, ggufs("m-Q4_K_M.gguf"))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    for name in (REPO, str(tmp_path / "a.gguf")):
        with pytest.raises(UsageError, match="GGUF"):
            fetch_checkpoint(name, WISH)
