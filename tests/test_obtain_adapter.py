"""`portable convert ADAPTER`: whose adapter it is, what is fetched, and what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapters import LINEAR, lora
from checkpoints import tiny
from ggufs import Gguf
from hubs import FakeHub, environment, serving
from typer.testing import CliRunner, Result

from portable.cli import app
from portable.errors import UsageError
from portable.obtain import obtain
from portable.obtain.adapter import adapter_folder, base_name

REPO = "org/Tiny-1.5B-Chat"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, environment(monkeypatch, tmp_path / "caches", server.url):
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base") / "Tiny-1.5B-Chat", "qwen2")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return lora(tmp_path / "checkpoint-100", base, LINEAR)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_swifts_args_json_names_the_base_and_only_its_config_is_fetched(
    fake: FakeHub, base: Path, adapter: Path, tmp_path: Path
) -> None:
    fake.add(REPO, {path.name: path.read_bytes() for path in base.iterdir()})
    (adapter / "args.json").write_text(json.dumps({"model": REPO, "train_type": "lora"}))
    result = run(adapter, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"base is {REPO}, as args.json says" in result.output
    made = Gguf(tmp_path / "checkpoint-100-LoRA-F32.gguf")
    assert made.keys["general.type"][1] == b"adapter"
    assert fake.state.asked("config.json")
    assert not fake.state.asked("tokenizer") and not fake.state.asked("safetensors")


def test_merged_it_is_a_model(base: Path, adapter: Path, tmp_path: Path) -> None:
    result = run(adapter, "--adapter-of", base, "--merge", "--output", tmp_path, "-q", "Q8_0")
    assert result.exit_code == 0, result.output
    made = Gguf(tmp_path / "Tiny-1.5B-Chat-checkpoint-100-Q8_0.gguf")
    assert made.keys["general.type"][1] == b"model"


@pytest.mark.parametrize(
    ("args", "settings", "expected"),
    [
        ({"model": REPO}, {}, REPO),
        ({"model_id_or_path": REPO, "use_hf": True}, {}, f"hf://{REPO}"),
        ({"model": REPO, "model_revision": "v2"}, {}, f"{REPO}@v2"),
        ({"model": "/home/me/absent"}, {"base_model_name_or_path": REPO}, REPO),
        ({"model": 7}, {"base_model_name_or_path": f"ms://{REPO}"}, f"ms://{REPO}"),
        (None, {"base_model_name_or_path": REPO, "revision": "main"}, f"{REPO}@main"),
    ],
)
def test_the_base_that_the_files_name(
    args: dict[str, Any] | None, settings: dict[str, Any], expected: str, adapter: Path
) -> None:
    if args is not None:
        (adapter / "args.json").write_text(json.dumps(args))
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    said: list[str] = []
    assert base_name(adapter, said.append) == expected
    assert expected in said[0]


def test_a_base_in_a_folder_is_taken(base: Path, adapter: Path) -> None:
    (adapter / "args.json").write_text(json.dumps({"model": str(base), "use_hf": True}))
    assert base_name(adapter, print) == str(base)


@pytest.mark.parametrize("name", ["/home/me/.cache/org/name", "", None, "name", "../../x"])
def test_a_base_that_cannot_be_had_is_asked_for(name: Any, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
    with pytest.raises(UsageError, match="--adapter-of"):
        base_name(adapter, print)


def test_a_model_is_no_adapter(base: Path, tmp_path: Path) -> None:
    assert adapter_folder(str(base)) is None
    result = run(base, "--merge", "--output", tmp_path)
    assert result.exit_code == 2
    assert "is no LoRA adapter's folder" in result.output


def test_to_run_an_adapters_folder_says_what_to_do(adapter: Path) -> None:
    with pytest.raises(UsageError, match=r"portable convert .*--adapter"):
        obtain(str(adapter), say=print)


def test_an_adapter_repository_says_what_to_do(fake: FakeHub, adapter: Path) -> None:
    fake.add("org/lora", {path.name: path.read_bytes() for path in adapter.iterdir()})
    result = run("org/lora")
    assert result.exit_code == 2
    assert "LoRA adapter: download it" in result.output
