"""The output appears complete or not at all: kill, full disk, Ctrl-C, two at once; and repeats."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from checkpoints import smollm2, tiny
from filelock import FileLock
from ggufs import Gguf

import convert as package
from convert import Converted, Options, Progress, convert, wanted_files, writer
from portable.errors import Busy, CheckpointError, DiskError

ROOT = Path(__file__).parents[1]
RUN = """
import resource, sys
from pathlib import Path
from convert import Options, convert
from portable.errors import PortableError
source, output, quant, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
print("started", flush=True)
try:
    convert(Path(source), Path(output), Options(quant=quant))
except KeyboardInterrupt:
    sys.exit(130)
except PortableError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2(tmp_path_factory.mktemp("smol") / "SmolLM2-135M-Instruct")


@pytest.fixture(scope="module")
def good(smol: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What every conversion of `smol` to Q4_0 must give."""
    path = tmp_path_factory.mktemp("good") / "out.gguf"
    return convert(smol, path, Options(quant="Q4_0")).path.read_bytes()


def start(source: Path, output: Path, quant: str = "Q4_0", limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(source), str(output), quant, str(limit)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "started\n"
    return child


def end(child: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = child.communicate(timeout=60)
    return child.returncode, said


def test_the_result_says_what_was_made(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    made = convert(folder, tmp_path / "out.gguf", Options(quant="q8_0"))
    assert isinstance(made, Converted)
    assert (made.path, made.quant, made.tensors) == (tmp_path / "out.gguf", "Q8_0", 26)
    assert (made.architecture, made.size) == ("qwen2", made.path.stat().st_size)
    assert made.parameters == sum(
        len(t.data) // 4
        for t in Gguf(convert(folder, made.path, Options(quant="F32")).path).tensors.values()
    )


def test_only_the_output_is_left(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    (tmp_path / "out").mkdir()
    convert(folder, tmp_path / "out" / "x.gguf")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.gguf"]


def test_progress_only_grows_and_ends_at_the_total(smol: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    convert(smol, tmp_path / "out.gguf", Options(quant="Q8_0"), progress=seen.append)
    done = [step.done_bytes for step in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total_bytes == seen[0].total_bytes > 200e6
    assert [seen[0].phase, seen[-1].phase] == ["convert", "save"]


def test_the_checksum_in_the_file_is_that_of_its_tensors(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen3")
    path = convert(folder, tmp_path / "out.gguf").path
    file = Gguf(path)
    start_of_data = -(-file.at // 32) * 32
    digest = hashlib.sha256(path.read_bytes()[start_of_data:]).hexdigest()
    assert file.keys["portable.tensors.sha256"][1].decode() == digest


def test_the_same_bytes_with_any_number_of_threads(smol: Path, good: bytes, tmp_path: Path) -> None:
    for threads in (1, 3):
        path = convert(smol, tmp_path / "out.gguf", Options(quant="Q4_0", threads=threads)).path
        assert path.read_bytes() == good


def test_a_killed_conversion_leaves_the_earlier_file(
    smol: Path, good: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out.gguf"
    output.write_bytes(b"earlier")
    rng = random.Random(0)
    for _ in range(8):
        child = start(smol, output)
        time.sleep(rng.uniform(0.05, 1.2))
        child.kill()
        end(child)
        assert output.read_bytes() in (b"earlier", good)
        for partial in tmp_path.glob(".out.gguf.*.partial"):
            assert partial.read_bytes()[:4] != b"GGUF"
    convert(smol, output, Options(quant="Q4_0"))
    assert output.read_bytes() == good
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_ctrl_c_leaves_nothing(smol: Path, tmp_path: Path) -> None:
    child = start(smol, tmp_path / "out.gguf", quant="Q4_K_M")
    while not any(tmp_path.iterdir()):
        time.sleep(0.01)
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert end(child)[0] == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999999])
def test_a_full_disk_is_told_and_leaves_the_earlier_file(
    smol: Path, good: bytes, tmp_path: Path, share: float
) -> None:
    output = tmp_path / "out.gguf"
    output.write_bytes(b"earlier")
    code, said = end(start(smol, output, limit=max(1, int(len(good) * share))))
    assert (code, said.split()[0]) == (5, "DiskError")
    assert "disk full" in said
    assert output.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_too_little_room_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    free = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: free)
    with pytest.raises(DiskError, match=r"needs 77 kB, 1 kB free"):
        convert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_errors_at_the_end_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    folder = tiny(tmp_path / "model", "qwen2")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(DiskError, match="Input/output error"):
        convert(folder, tmp_path / "out" / "x.gguf")
    assert list((tmp_path / "out").iterdir()) == []


def test_four_at_once_make_one_file(smol: Path, good: bytes, tmp_path: Path) -> None:
    children = [start(smol, tmp_path / "out.gguf") for _ in range(4)]
    codes = [end(child) for child in children]
    assert {code for code, _ in codes} <= {0, 6}
    assert any(code == 0 for code, _ in codes)
    assert all("another conversion" in said for code, said in codes if code == 6)
    assert (tmp_path / "out.gguf").read_bytes() == good
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_a_held_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LOCK_SECONDS", 0.1)
    folder = tiny(tmp_path / "model", "qwen2")
    with FileLock(tmp_path / ".out.gguf.lock"), pytest.raises(Busy) as caught:
        convert(folder, tmp_path / "out.gguf")
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out.gguf").exists()


def test_a_shard_that_shrinks_while_it_is_read(smol: Path, tmp_path: Path) -> None:
    folder = smollm2(tmp_path / "SmolLM2")

    def shrink(step: Progress) -> None:
        if step.done_bytes > 20e6:
            os.truncate(folder / "model.safetensors", 60_000_000)

    with pytest.raises(CheckpointError, match="became shorter"):
        convert(folder, tmp_path / "out.gguf", Options(quant="Q4_0"), progress=shrink)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_changes_while_it_is_read(name: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")

    def touch(step: Progress) -> None:
        os.utime(folder / name, ns=(1, 1))

    with pytest.raises(CheckpointError, match=f"{name} changed while it was read"):
        convert(folder, tmp_path / "out.gguf", progress=touch)
    assert not (tmp_path / "out.gguf").exists()


def test_a_small_file_that_goes_away_while_others_are_read(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")

    def remove(step: Progress) -> None:
        (folder / "tokenizer_config.json").unlink(missing_ok=True)

    with pytest.raises(CheckpointError, match="changed while it was read"):
        convert(folder, tmp_path / "out.gguf", progress=remove)
    assert not (tmp_path / "out.gguf").exists()


def test_an_error_of_the_callers_progress_leaves_nothing(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    (tmp_path / "out").mkdir()

    def stop(step: Progress) -> None:
        raise RuntimeError("stop")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="stop"):
        convert(folder, tmp_path / "out" / "x.gguf", progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    assert threading.active_count() == before


def test_files_of_a_hub_repository_that_are_wanted() -> None:
    import fnmatch

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in wanted_files())

    assert all(map(wanted, [
        "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json",
        "tokenizer.model", "tokenizer_config.json", "merges.txt", "vocab.json",
        "1_Pooling/config.json", "chat_template.jinja", "README.md",
    ]))  # fmt: skip
    assert not any(map(wanted, ["pytorch_model.bin", "model.gguf", "x.pth", "training_args.bin"]))


def test_importing_the_package_is_light() -> None:
    code = "import sys, convert; convert.quant_names(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018
