"""`make gpu-archive`: all that check.py needs on a machine without a network, in small parts.

    python tests/gpu/archive.py [--python 3.12] [--limit 60] [--without numpy ...]
    cat part-* | tar xz && cd gpu-check && python3 tests/gpu/check.py --wheels wheels --source llama

It holds this repository, llama-cpp-python's source without what the build does not read, wheels for
that Python on x86-64 Linux, and the small model. `--without` leaves out what is there already.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from check import MODEL, ROOT, TOOLS, dependencies, unpacked

MIB = 1 << 20
PLATFORMS = ["manylinux2014_x86_64", *(f"manylinux_2_{n}_x86_64" for n in range(17, 40))]
# Of llama.cpp: the folders that its CMakeLists read for a build of the library and the server, but
# for the code of other backends.
KEPT = ("cmake", "common", "ggml", "include", "licenses", "scripts", "src", "tools", "vendor")
BACKENDS = ("base", "blas", "cpu", "cuda", "rpc", "vulkan")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "gpu-check")
    parser.add_argument("--python", default="3.12", help="version on the other machine")
    parser.add_argument("--limit", type=int, default=60, help="MiB of a part")
    parser.add_argument("--without", nargs="*", default=[], help="packages that are there already")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wheels = download(folder / "wheels", given.python, set(given.without))
        source = unpacked(sdist(folder), folder)
        whole = folder / "gpu-check.tar.gz"
        with tarfile.open(whole, "w:gz") as packed:
            for kind, found in (
                ("repository", repository()),
                ("llama", llama(source)),
                ("wheels", ((f"wheels/{wheel.name}", wheel) for wheel in wheels)),
            ):
                print(f"{kind}: {add(packed, found) / MIB:.1f} MiB", flush=True)
        parts = split(whole, given.output, given.limit * MIB)
    print(f"{len(parts)} parts of {given.limit} MiB at most in {given.output}")
    return 0


def add(packed: tarfile.TarFile, files: Iterable[tuple[str, Path]]) -> int:
    """Bytes that were added under gpu-check/."""
    size = 0
    for name, path in files:
        packed.add(path, f"gpu-check/{name}", recursive=False)
        size += path.stat().st_size
    return size


def repository() -> Iterator[tuple[str, Path]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        yield name, ROOT / name


def llama(source: Path) -> Iterator[tuple[str, Path]]:
    """What a build reads."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and is_needed(name):
            yield f"llama/{name}", path


def is_needed(name: str) -> bool:
    """Whether a file of llama-cpp-python's source, by its path there, is read by the build."""
    head, _, rest = name.partition("vendor/llama.cpp/")
    if head or not rest:
        return name.startswith("llama_cpp/") or "/" not in name
    top, _, below = rest.partition("/")
    if rest.startswith("ggml/src/ggml-") and "/" in rest.removeprefix("ggml/src/"):
        return rest.removeprefix("ggml/src/ggml-").startswith(tuple(f"{b}/" for b in BACKENDS))
    return not below or top in KEPT


def download(place: Path, python: str, without: set[str]) -> list[Path]:
    """Wheels for that Python; the model's without its dependencies: one would bring torch."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "-d"]
    command += [str(place), "--python-version", python, "--implementation", "cp"]
    command += ["--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    needs = ["diskcache", "typing-extensions", *dependencies(), *TOOLS]
    subprocess.run([*command, *needs], check=True)
    subprocess.run([*command, "--no-deps", MODEL], check=True)
    return [wheel for wheel in sorted(place.glob("*.whl")) if _package(wheel) not in without]


def _package(wheel: Path) -> str:
    return wheel.name.partition("-")[0].replace("_", "-").lower()


def sdist(place: Path) -> Path:
    (pin,) = [name for name in dependencies(own=True) if name.startswith("llama-cpp-python==")]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "-d", str(place), pin], check=True)
    return next(place.glob("llama_cpp_python-*.tar.gz"))


def split(whole: Path, output: Path, size: int) -> list[Path]:
    """`whole` as files of at most `size` bytes, in the order of their names."""
    for old in output.glob("part-*"):
        old.unlink()
    parts = []
    with whole.open("rb") as file:
        while data := file.read(size):
            parts.append(output / f"part-{len(parts):02d}")
            parts[-1].write_bytes(data)
    return parts


if __name__ == "__main__":
    sys.exit(main())
