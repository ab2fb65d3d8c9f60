"""The lines that build llama.cpp: one home, which README and Makefile agree with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from portable.engine import build
from portable.engine.build import Target, command, flags, wheel

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed program finds its requirement: a checkout may not be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: project["dependencies"])


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_readme_gives_the_same_flags(name: str) -> None:
    said = set(re.findall(r'CMAKE_ARGS="([^"]*)" pip install', (ROOT / name).read_text("utf-8")))
    assert said <= {flags(Target(backend)) for backend in build.REGISTERED}
    assert {flags(Target("cpu")), flags(Target("cuda"))} <= said


def test_the_makefile_builds_with_the_same_flags() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^LLAMA_CMAKE \?= (.*)$", makefile, re.MULTILINE)
    assert found and found[1] == flags(Target("cpu"))


def test_a_line_names_the_gpus_architectures_the_pin_and_the_environment() -> None:
    line = command(Target("cuda", ("86", "120")), "linux")
    assert line.startswith(
        'CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=86;120 -DGGML_RPC=ON" '
    )
    assert line.endswith(f"--no-binary llama-cpp-python {build.pin()}")
    assert re.fullmatch(r"llama-cpp-python==\d+\.\d+\.\d+", build.pin())
    assert "-DGPU_TARGETS=gfx1100" in command(Target("rocm", ("gfx1100",)), "linux")
    assert "ARCHITECTURES" not in command(Target("cuda"), "linux")


def test_windows_gets_a_line_for_powershell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", r"C:\my python\python.exe")
    line = command(Target("vulkan"), "win32")
    assert line.startswith('$env:CMAKE_ARGS="-DGGML_VULKAN=ON -DGGML_RPC=ON"; & "C:\\my python\\')


def test_an_environment_without_pip_is_served_by_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("sys.executable", "/a b/python")
    assert build.installer("linux") == "uv pip install --python '/a b/python'"


@pytest.mark.parametrize(
    "target, cuda, variant",
    [
        (Target("cuda", ("86",)), "12.4", "cu124"),
        (Target("cuda", ("86",)), "12.9", "cu125"),
        (Target("cuda", ("86",)), "13.1", "cu130"),
        (Target("cuda", ("61",)), "13.1", "cu125"),  # CUDA 13 knows no GPU that old
        (Target("cuda", ("61",)), "11.8", "cu118"),
        (Target("cuda", ("90",)), "11.8", ""),
        (Target("cuda"), "13.2", "cu132"),
        (Target("cuda"), "11.4", ""),
        (Target("cpu"), "", "cpu"),
        (Target("metal"), "", "metal"),
        (Target("rocm", ("gfx1100",)), "", "rocm72"),
    ],
)
def test_the_prebuilt_wheel_fits_driver_and_gpu(target: Target, cuda: str, variant: str) -> None:
    line = wheel(target, cuda, "linux")
    assert bool(line) == bool(variant) and (not variant or f"the one for {variant} of" in line)


def test_a_program_that_is_not_installed_names_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert build.pin() == "llama-cpp-python"
