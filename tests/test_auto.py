"""`--quant auto`: what is surveyed is what conversions make; the choice follows its rule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import tiny
from ggufs import Gguf
from test_quantize import WIDE

from convert import Options, convert
from convert.survey import QUANTS, Candidate, survey
from portable.auto import Rates, choose, time_kernels
from portable.tensortype import TYPES

ROOT = Path(__file__).parents[1]
KIND = (TYPES["Q4_K"], 256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("m") / "Tiny", "qwen2", **WIDE, num_hidden_layers=3)


@pytest.fixture(scope="module")
def candidates(folder: Path) -> dict[str, Candidate]:
    return {c.quant: c for c in survey(folder, Options(name="Tiny"))}


@pytest.mark.parametrize("quant", ["Q4_K_M", "IQ4_NL", "Q8_0"])
def test_a_survey_finds_what_the_conversion_makes(
    quant: str, folder: Path, candidates: dict[str, Candidate], tmp_path: Path
) -> None:
    made = convert(folder, tmp_path / "out.gguf", Options(quant=quant, name="Tiny", measure=True))
    errors = [tensor.error for tensor in made.measured if tensor.type != "F32"]
    found = candidates[quant]
    assert found.error == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.02)
    assert abs(found.size - made.size) < 200  # the name of the quantization in the head


def test_more_bits_are_better(candidates: dict[str, Candidate]) -> None:
    assert set(candidates) == set(QUANTS)
    for better, worse in (("Q8_0", "Q6_K"), ("Q6_K", "Q5_K_M"), ("Q5_K_M", "Q4_K_M")):
        assert candidates[better].error < candidates[worse].error


def values(candidate: Candidate) -> float:
    return sum(candidate.work.values())


def multiplied(path: Path) -> int:
    """Values of all matrices but an embedding that is only looked up."""
    tensors = Gguf(path).tensors
    looked_up = "token_embd.weight" if "output.weight" in tensors else ""
    names = [n for n, t in tensors.items() if len(t.shape) > 1 and n != looked_up]
    return sum(int(np.prod(tensors[n].shape)) for n in names if tensors[n].type != "F32")


@pytest.mark.parametrize("tied", [True, False])
def test_the_work_is_every_matrix_once(tied: bool, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", "qwen2", tie_word_embeddings=tied)
    path = convert(folder, tmp_path / "out.gguf", Options(quant="Q8_0")).path
    found = {c.quant: c for c in survey(folder, Options())}["Q8_0"]
    assert values(found) == multiplied(path)


def test_of_experts_only_those_chosen_are_work(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", "qwen3_moe")
    path = convert(folder, tmp_path / "out.gguf", Options(quant="Q8_0")).path
    file = Gguf(path)
    share = file.keys["qwen3moe.expert_used_count"][1] / file.keys["qwen3moe.expert_count"][1]
    experts = sum(int(np.prod(t.shape)) for n, t in file.tensors.items() if "_exps" in n)
    found = {c.quant: c for c in survey(folder, Options())}["Q8_0"]
    assert share < 1 and experts
    assert values(found) == multiplied(path) - (1 - share) * experts


def made(quant: str, size: int, error: float, work: float) -> Candidate:
    return Candidate(quant, size, error, {KIND: work})


RATES: Rates = {KIND: 1e-3}


def test_the_fastest_of_what_is_no_worse() -> None:
    rows = [made("Q4_K_M", 10, 0.07, 10), made("Q4_0", 8, 0.09, 5), made("Q6_K", 14, 0.02, 8)]
    choice = choose(rows, RATES)
    assert choice.best.candidate.quant == "Q6_K"
    assert [row.good for row in choice.ranked] == [True, False, True]
    assert choice.best.rate == pytest.approx(125)
    assert "Q6_K: 125 tok/s" in choice.reason and "Q4_K_M has 100" in choice.reason
    assert "2.00 % against 7.00 %" in choice.reason


def test_of_what_is_about_as_fast_the_smallest() -> None:
    rows = [made("Q4_K_M", 10, 0.07, 10), made("Q5_K_M", 12, 0.05, 9.9), made("Q8_0", 9, 0.01, 10)]
    assert choose(rows, RATES).best.candidate.quant == "Q8_0"


def test_the_default_stays_where_nothing_as_good_is_faster() -> None:
    rows = [made("Q4_K_M", 10, 0.07, 10), made("Q8_0", 20, 0.01, 15)]
    assert choose(rows, RATES).reason.startswith("Q4_K_M: nothing as good is faster")


def test_kernels_of_every_type_are_timed(candidates: dict[str, Candidate]) -> None:
    rates = time_kernels(list(candidates.values()), threads=1)
    kinds = {kind for c in candidates.values() for kind in c.work}
    assert set(rates) == kinds
    assert all(1e-13 < seconds < 1e-6 for seconds in rates.values())


def portable(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "portable.cli", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_convert_says_what_it_takes_and_why(folder: Path, tmp_path: Path) -> None:
    done = portable("convert", folder, "--quant", "AUTO", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.gguf")
    quant = Gguf(path).keys["portable.quantization"][1].decode()
    assert f"--quant auto takes {quant}: " in done.stderr
    assert path.name == f"Tiny-{quant}.gguf"


def test_a_table_names_every_candidate_and_the_choice(folder: Path) -> None:
    done = portable("quants", folder, "--measure")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(QUANTS)
    assert sum("<- auto" in line for line in lines) == 1
    assert lines[-1].startswith("auto takes ")


@pytest.mark.parametrize(
    "words",
    [("quants", "x"), ("quants", "--measure"),
     ("convert", "x", "--quant", "auto", "--imatrix", "m.gguf")],
)  # fmt: skip
def test_what_does_not_go_together_is_told(words: tuple[str, ...]) -> None:
    done = portable(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_weights_that_are_kept_in_4_bits_are_work_without_an_error(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", "gpt_oss")
    found = {c.quant: c for c in survey(folder, Options())}
    types = {kind.name for kind, _ in found["Q8_0"].work}
    assert {"MXFP4", "Q8_0"} <= types
    assert 0 < found["Q8_0"].error < found["Q4_0"].error
