"""Reports: errors are what gguf-py finds too, the page stands alone, and both say the same."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import tiny
from gguf.quants import dequantize as by_gguf
from test_quantize import WIDE

from convert import Converted, Options, convert
from convert.quantize import dequantize, prepare, quantize_rows
from convert.report import Divergence, Estimate, Evaluation
from portable.errors import UsageError
from portable.report import Summary, check, write
from portable.report.plot import series
from portable.tensortype import TYPES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("m") / "Tiny-<b>", "qwen2", **WIDE, num_hidden_layers=3)


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    output = tmp_path_factory.mktemp("out") / "out.gguf"
    return convert(folder, output, Options(quant="Q4_K_M", measure=True))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K",
                                  "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4"])  # fmt: skip
def test_values_come_back_as_gguf_py_reads_them(name: str) -> None:
    prepare({TYPES[name]})
    values = np.random.default_rng(1).standard_normal((3, 512), np.float32)
    data = quantize_rows(values, TYPES[name])
    wanted = by_gguf(data.reshape(3, -1), gguf.GGMLQuantizationType[name])
    assert np.array_equal(dequantize(data, TYPES[name]), wanted.reshape(-1))


def test_errors_are_those_of_the_finished_file(folder: Path, done: Converted) -> None:
    lossless = convert(folder, done.path.with_name("f32.gguf"), Options(quant="F32")).path
    values: dict[str, list[Any]] = {}
    for path in (lossless, done.path):
        for tensor in gguf.GGUFReader(path).tensors:
            found = by_gguf(tensor.data, tensor.tensor_type).astype(np.float64).reshape(-1)
            values.setdefault(tensor.name, []).append(found)
    for tensor in done.measured:
        before, after = values[tensor.name]
        wanted = np.sqrt(((before - after) ** 2).sum() / (before**2).sum())
        assert tensor.error == pytest.approx(wanted, rel=1e-4), tensor.name
    quantized = [t for t in done.measured if t.type == "Q4_K"]
    assert quantized and all(0.03 < t.error < 0.15 for t in quantized)
    assert next(t.error for t in done.measured if t.type == "F32") == 0


def test_nothing_is_measured_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    assert convert(folder, tmp_path / "out.gguf").measured == ()


def test_measuring_changes_no_byte(folder: Path, done: Converted, tmp_path: Path) -> None:
    plain = convert(folder, tmp_path / "out.gguf", Options(quant="Q4_K_M")).path
    assert plain.read_bytes() == done.path.read_bytes()


def test_json_has_every_tensor_and_the_worst(done: Converted, tmp_path: Path) -> None:
    write(Summary(done), tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text("utf-8"))
    errors = {t["name"]: t["relative_error"] for t in found["tensors"]}
    assert len(errors) == done.tensors and found["model"] == "Tiny-<b>"
    assert errors[found["worst"][0]] == max(errors.values())
    assert found["bits_per_weight"] == pytest.approx(8 * done.size / done.parameters)
    low, high = min(e for e in errors.values() if e), max(errors.values())
    assert low < found["relative_error"] < high
    assert found["evaluation"] is None and found["partly_measured"] is False


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attrs


def test_the_page_stands_alone_and_shows_every_quantized_tensor(
    done: Converted, tmp_path: Path
) -> None:
    estimate = Estimate(1.5, 0.1)
    divergence = Divergence(estimate, estimate, Estimate(0.03125, 0.1), 0.1, 0.2, 0.3, estimate)
    evaluated = dataclasses.replace(
        done, evaluation=Evaluation(Estimate(12.625, 1), 99, 3, 512, divergence)
    )
    write(Summary(evaluated), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    page = Page(text)
    assert page.tags["circle"] == len([t for t in done.measured if t.type != "F32"])
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", text)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "Tiny-&lt;b&gt;" in text and "<b>-" not in text
    assert "prefers-color-scheme:dark" in text and "相对误差" in text
    assert "12.62" in text and "0.03125" in text


def test_what_fell_back_is_said_with_the_reason(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "narrow", "llama")  # rows of 64: no block of 256 fits
    made = convert(folder, tmp_path / "out.gguf", Options(quant="Q4_K_M", measure=True))
    assert {t.instead_of for t in made.measured if t.type == "Q5_0"} == {"Q4_K"}
    write(Summary(made), tmp_path / "r.html")
    assert "Q4_K became Q5_0 where rows have 64 values" in (tmp_path / "r.html").read_text("utf-8")


def test_many_kinds_of_tensors_share_the_last_colour(done: Converted) -> None:
    odd = [dataclasses.replace(done.measured[0], name=f"blk.0.kind{i}.weight") for i in range(12)]
    assert [name for name, _ in series(odd)][-1] == "other"
    assert sum(len(members) for _, members in series(odd)) == 12


@pytest.mark.parametrize("name", ["r.txt", "r", "nowhere/r.html"])
def test_a_path_for_no_report_is_told_before_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check(tmp_path / name)


def test_the_command_writes_it(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "portable.cli", "convert", str(folder), "--no-verify"]
    command += ["--output", str(tmp_path), "--report", str(tmp_path / "r.json"), "--quiet"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["quantization"] == "Q4_K_M"
