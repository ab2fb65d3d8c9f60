"""`portable convert --evaluate`: what is made for it, what it says, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoints import tiny
from hubs import environment, serving
from measure_cases import TEXT
from typer.testing import CliRunner

import convert as converter
from convert import Converted, Options, streamed
from convert.report import Divergence, Estimate, Evaluation
from convert.writer import kept_names
from portable.cli import app
from portable.cli.evaluate import Evaluator
from portable.errors import DiskError, NetworkError, UnsupportedModel, UsageError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "Tiny"
    (folder.parent / "text.txt").write_text(TEXT, encoding="utf-8")
    return tiny(folder, "qwen3")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments), "--no-verify", "--quiet"])


def test_it_says_perplexity_and_divergence_and_leaves_the_model_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    text = checkpoint.parent / "text.txt"
    done = run(checkpoint, "-o", tmp_path, "--evaluate", text, "--evaluate-chunks", 2)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny-Q4_K_M.gguf"]
    for part in ("BF16 model takes", "on 510 tokens in 2 chunks of 512", "KL divergence from BF16"):
        assert part in done.stderr


def test_a_file_that_is_not_quantized_has_perplexity_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    text = checkpoint.parent / "text.txt"
    done = run(checkpoint, "-o", tmp_path, "-q", "bf16", "--evaluate", text)
    assert done.exit_code == 0, done.output
    assert "perplexity" in done.stderr and "KL divergence" not in done.stderr


def test_what_cannot_be_read_is_said_before_anything_is_made(
    checkpoint: Path, tmp_path: Path
) -> None:
    done = run(checkpoint, "-o", tmp_path, "--evaluate", tmp_path / "none.txt")
    assert done.exit_code == 2 and "none.txt" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_too_short_or_too_little_is_said_before_anything_is_made(
    checkpoint: Path, tmp_path: Path
) -> None:
    text, out = tmp_path / "short.txt", tmp_path / "out"
    out.mkdir()
    text.write_text("a" * 509, encoding="utf-8")
    done = run(checkpoint, "-o", out, "--evaluate", text)
    assert done.exit_code == 2 and "509 bytes, and one chunk takes 512 tokens" in done.stderr
    text = checkpoint.parent / "text.txt"
    done = run(checkpoint, "-o", out, "--evaluate", text, "--evaluate-chunks", 0)
    assert done.exit_code == 2 and "0 chunks" in done.stderr
    assert not list(out.iterdir())


def test_a_file_that_could_not_be_evaluated_stays_and_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    text, out = tmp_path / "short.txt", tmp_path / "out"
    out.mkdir()
    text.write_text("the " * 130, encoding="utf-8")
    done = run(checkpoint, "-o", out, "--evaluate", text)
    assert done.exit_code == 2 and "use a longer text" in done.stderr
    assert "Tiny-Q4_K_M.gguf is complete, but was not evaluated" in done.stderr
    assert [path.name for path in out.iterdir()] == ["Tiny-Q4_K_M.gguf"]


class Maker:
    """Stands for the conversion: remembers what was made, and makes it."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.made: list[tuple[str, str]] = []

    def make(self, path: Path, options: Options) -> Converted:
        self.made.append((path.name, options.quant))
        return converter.convert(self.checkpoint, path, options)

    def sizes(self) -> dict[str, int]:
        return {s.quant: s.size for s in converter.preview(self.checkpoint, Options()).sizes}


@pytest.fixture
def maker(checkpoint: Path) -> Maker:
    return Maker(checkpoint)


@pytest.fixture
def evaluator(checkpoint: Path) -> Evaluator:
    return Evaluator(checkpoint.parent / "text.txt", 1, lambda *_: None)


def test_without_memory_for_both_the_bf16_model_is_not_made(
    maker: Maker, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portable.measure.perplexity.available_memory", lambda: 200 << 20)
    done = evaluator.convert(maker.make, maker.sizes, tmp_path / "x.gguf", Options())
    assert maker.made == [("x.gguf", "Q4_K_M")]
    assert done.evaluation and done.evaluation.divergence is None
    assert "0.2 are free" in done.evaluation.skipped
    assert any("left out" in line for line in done.evaluation.lines)


def test_without_disk_for_both_nothing_is_begun(
    maker: Maker, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = maker.sizes()["Q4_K_M"] + (1 << 20) + 4096
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=free))
    with pytest.raises(DiskError, match="not enough room"):
        evaluator.convert(maker.make, maker.sizes, tmp_path / "x.gguf", Options())
    assert not maker.made


def test_the_bf16_model_goes_whatever_happens(
    maker: Maker, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr("portable.measure.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluator.convert(maker.make, maker.sizes, tmp_path / "x.gguf", Options())
    assert [quant for _, quant in maker.made] == ["Q4_K_M", "BF16"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_text_of_less_than_a_chunk_keeps_the_file(
    maker: Maker, tmp_path: Path, evaluator: Evaluator
) -> None:
    evaluator.text = "short"
    with pytest.raises(UsageError, match="one chunk takes 512"):
        evaluator.convert(maker.make, maker.sizes, tmp_path / "x.gguf", Options())
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_an_encoder_is_made_and_then_said_to_make_no_text(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    maker = Maker(tiny(tmp_path / "bert", "bert"))
    with pytest.raises(UnsupportedModel, match="encoder"):
        evaluator.convert(maker.make, maker.sizes, tmp_path / "x.gguf", Options())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "x.gguf"]


def test_weights_that_stream_do_so_twice_and_leave_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    text = checkpoint.parent / "text.txt"
    out = tmp_path / "out"
    out.mkdir()
    with serving() as server, environment(monkeypatch, tmp_path / "caches", server.url):
        server.add("org/Tiny", repo)
        flags = ("ms://org/Tiny", "--stream", "-o", out, "--evaluate", text)
        done = run(*flags, "--evaluate-chunks", 1)
        assert done.exit_code == 0, done.output
        assert "KL divergence from BF16" in done.stderr
        assert [path.name for path in out.iterdir()] == ["Tiny-Q4_K_M.gguf"]

        def unplug(_plan: object, output: Path, *_: object) -> None:
            output.with_name(kept_names(output)[0]).touch()
            raise NetworkError("the hub is gone")

        make = streamed.write
        quants = iter([make, unplug])
        monkeypatch.setattr(streamed, "write", lambda *a, **b: next(quants)(*a, **b))
        assert run(*flags).exit_code == 7
        assert [path.name for path in out.iterdir()] == ["Tiny-Q4_K_M.gguf"]


def test_an_adapter_alone_is_not_evaluated(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    done = run(tmp_path, "--evaluate", checkpoint.parent / "text.txt")
    assert done.exit_code == 2 and "--merge" in done.stderr


def test_the_words() -> None:
    one = Estimate(1.5, 0.25)
    found = Evaluation(one, 510, 2, 512, Divergence(one, one, one, 0.1, 0.5, 0.75, one))
    assert list(found.lines) == [
        "perplexity 1.5000 ± 0.2500, on 510 tokens in 2 chunks of 512",
        "perplexity in BF16 1.5000 ± 0.2500: 1.5000 ± 0.2500 times that",
        "KL divergence from BF16 1.5000 ± 0.2500 nats on average, 99 % are below 0.5000, all below "
        "0.7500",
        "the likeliest token is the same for 1.5000 ± 0.2500 of the tokens",
    ]
