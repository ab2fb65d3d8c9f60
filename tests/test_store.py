"""What the store finds again, and what it does not take for a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from portable import store
from portable.errors import DiskError, UsageError

REPO = "Qwen/Qwen3-0.6B"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(quant: str = "Q4_K_M", revision: str | None = None) -> store.Record:
    path = store.target("ms", REPO, f"Qwen3-0.6B-{quant}.gguf", revision)
    path.write_bytes(b"GGUF")
    record = store.Record("ms", REPO, quant, str(path), revision, commit="c0ffee")
    store.save(record)
    return record


def test_found_by_hub_id_and_quant(home: Path) -> None:
    record = put()
    assert store.find("ms", REPO, "Q4_K_M") == record
    assert store.find("hf", REPO, "Q4_K_M") is None
    assert store.find("ms", REPO, "Q8_0") is None
    assert record.path.relative_to(home).as_posix() == (
        "models/ms--Qwen--Qwen3-0.6B/Qwen3-0.6B-Q4_K_M.gguf"
    )


def test_revisions_are_different_models() -> None:
    put(revision="v1")
    assert store.find("ms", REPO, "Q4_K_M") is None
    assert store.find("ms", REPO, "Q4_K_M", "v1")


def test_a_file_without_record_or_a_record_without_file_is_nothing() -> None:
    record = put()
    store.target("ms", REPO, "Qwen3-0.6B-Q8_0.gguf").write_bytes(b"GGUF")
    assert store.listing() == [record]
    record.path.unlink()
    assert store.listing() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"hub": 1}', '"x"', "null"])
def test_a_damaged_record_is_nothing(text: str) -> None:
    record = put()
    record.path.with_suffix(".json").write_text(text)
    assert store.find("ms", REPO, "Q4_K_M") is None and store.listing() == []


def test_saving_leaves_no_temporary_file_and_replaces() -> None:
    record = put()
    store.save(replace(record, commit="other"))
    found = store.find("ms", REPO, "Q4_K_M")
    assert found and found.commit == "other"
    assert {p.suffix for p in record.path.parent.iterdir()} == {".gguf", ".json"}


def test_a_record_that_cannot_take_its_place_leaves_nothing(home: Path) -> None:
    record = put()
    in_the_way = record.path.with_suffix(".json")
    in_the_way.unlink()
    (in_the_way / "x").mkdir(parents=True)
    with pytest.raises(DiskError, match="cannot write"):
        store.save(record)
    assert {p.name for p in record.path.parent.iterdir()} == {record.path.name, in_the_way.name}


@pytest.mark.parametrize(
    "text", ["a/b", "../..", "模型/千问", "a" * 300, "C:\\x", "a b", ".", "x\0y"]
)
def test_safe_names_are_one_file_name(text: str) -> None:
    name = store.safe(text)
    assert name not in ("", ".", "..") and len(name) < 120
    assert not set(name) & set('/\\:\0 "<>|?*') and not name.startswith(".")


def test_different_ids_stay_different() -> None:
    ids = ["a/b", "a--b", "a:b", "a b", "模型/b", "千问/b", "x" * 200, "x" * 201]
    assert len({store.safe(i) for i in ids}) == len(ids)


def test_no_way_out_of_the_store() -> None:
    with pytest.raises(UsageError):
        store.target("ms", REPO, "../x.gguf")


def test_a_store_that_cannot_be_made_is_a_disk_error(home: Path) -> None:
    home.write_text("a file in the way", encoding="utf-8")
    with pytest.raises(DiskError, match="PORTABLE_HOME"):
        store.target("ms", REPO, "x.gguf")
