"""The checks of a GPU, on a machine without one: they are complete, and pass on a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from serving import ROOT

CHECKS = ROOT / "tests" / "gpu"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(CHECKS)
    import archive
    import check
    import rates

    return archive, check, rates


def checks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "PORTABLE_GPU_CHECK": "rpc", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


def test_all_of_them_can_be_read_and_none_runs_unasked() -> None:
    found = checks("-m", "gpu", "--collect-only", "tests/gpu")
    for name in ("numbers", "offload", "planner", "server"):
        assert f"test_gpu_{name}.py" in found.stdout, found.stdout + found.stderr
    assert checks("tests/gpu").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("file", ["test_gpu_offload.py", "test_gpu_planner.py"])
def test_a_worker_in_place_of_a_gpu_passes_them(file: str) -> None:
    done = checks("-m", "gpu", f"tests/gpu/{file}")
    assert done.returncode == 0, done.stdout[-4000:]


def test_make_knows_how_to_build_for_each_backend() -> None:
    def line(*arguments: str) -> str:
        command = ["make", "-n", "wheel", f"PYTHON={sys.executable}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    assert "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=86 -DGGML_RPC=ON" in line(
        "BACKEND=cuda", "GPU=86"
    )
    dynamic = line("BACKEND=vulkan", "DYNAMIC=1")
    assert "-DGGML_VULKAN=ON" in dynamic and "-DGGML_BACKEND_DL=ON" in dynamic
    assert "BACKEND_DL" not in line()


def test_the_architecture_is_the_driver_s_word(
    scripts: tuple[ModuleType, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, check, _ = scripts
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\nprintf '9.0\\n8.6\\n9.0\\n'\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert check.cuda_architectures() == ["86", "90"]
    fake.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="tells no GPU"):
        check.cuda_architectures()


def test_the_archive_has_what_a_build_reads_and_no_more(
    scripts: tuple[ModuleType, ...], tmp_path: Path
) -> None:
    archive, _, _ = scripts
    inside = "vendor/llama.cpp/"
    for name in ("CMakeLists.txt", "src/llama.cpp", "ggml/src/ggml-cuda/mmq.cu", "ggml/src/ggml.c"):
        assert archive.is_needed(inside + name)
    for name in ("models/a.gguf", "docs/build.md", "ggml/src/ggml-sycl/a.cpp", "tests/a.cpp"):
        assert not archive.is_needed(inside + name)
    assert archive.is_needed("llama_cpp/llama.py") and not archive.is_needed("docs/index.md")
    whole = tmp_path / "whole"
    whole.write_bytes(bytes(range(25)))
    parts = archive.split(whole, tmp_path, 10)
    assert [part.name for part in parts] == ["part-00", "part-01", "part-02"]
    assert b"".join(part.read_bytes() for part in sorted(parts)) == whole.read_bytes()


def test_rates_become_a_table(scripts: tuple[ModuleType, ...]) -> None:
    *_, rates = scripts
    level = {
        "clients": 16,
        "first_median": 0.25,
        "decode_rate": 31.5,
        "throughput": 400,
        "errors": 0,
    }
    *_, row = rates.table([("portable serve", {"levels": [level]})])
    assert row == "| portable serve | 16 | 0.250 | 31.5 | 400.0 | 0 |"
