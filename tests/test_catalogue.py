"""Known names: each file complete, names unique, the embedded model found without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import convert
from convert.arch import BY_ARCHITECTURE
from portable import catalogue, hub


@pytest.mark.parametrize("entry", catalogue.load().values(), ids=lambda e: e.name)
def test_every_entry_is_usable(entry: catalogue.Entry) -> None:
    assert hub.is_id(entry.modelscope) and hub.is_id(entry.huggingface)
    assert entry.licence and entry.context
    assert entry.architecture in BY_ARCHITECTURE
    assert convert.quant_name(entry.quant) == entry.quant
    known = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    assert entry.sampling.keys() <= known
    assert all(0 < value <= 100 for value in entry.sampling.values())
    assert (catalogue.folder() / f"{entry.name}.toml").is_file()


def test_there_is_a_choice() -> None:
    entries = catalogue.load().values()
    assert len(entries) >= 20 and len({entry.architecture for entry in entries}) >= 8


def test_names_belong_to_one_entry() -> None:
    names = [n.casefold() for e in catalogue.load().values() for n in e.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B-Instruct", " qwen2.5:0.5b ", "QWEN2.5-0.5B"])
def test_names_and_aliases_in_any_case(name: str) -> None:
    entry = catalogue.find(name)
    assert entry and entry.modelscope == "Qwen/Qwen2.5-0.5B-Instruct"


def test_unknown_names_are_none_and_get_advice() -> None:
    assert catalogue.find("qwen9") is None
    assert "qwen2.5-0.5b-instruct" in catalogue.hint("qwen2.5-0.5b-instuct")
    assert ".gguf" in catalogue.hint("zzzz")


def test_hub_ids_are_found_on_both_hubs() -> None:
    ours, theirs = "LLM-Research/Llama-3.2-1B-Instruct", "unsloth/llama-3.2-1b-instruct"
    assert catalogue.by_id(ours) is catalogue.by_id(theirs) is not None


def test_the_defaults_exist() -> None:
    known = catalogue.load()
    assert known[catalogue.DEFAULT] and known[catalogue.EMBEDDED_DEFAULT].embedded


def test_embedded_is_found_but_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "carrier" / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert catalogue.Embedded("carrier", "m.gguf", "Q4_1").path() == tmp_path / "carrier/m.gguf"
    assert catalogue.Embedded("carrier", "n.gguf", "Q4_1").path() is None
    assert catalogue.Embedded("no_such_carrier", "m.gguf", "Q4_1").path() is None
    assert "carrier" not in sys.modules


def test_an_installed_wheel_carries_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "portable" / "catalogue.py"))
    assert catalogue.folder() == tmp_path / "models"
    (tmp_path / "portable" / "_models").mkdir(parents=True)
    assert catalogue.folder() == tmp_path / "portable" / "_models"
