"""Small files that mean much memory, much time or no end: refused, before that is spent."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from adapters import LINEAR, lora
from checkpoints import tiny
from tiny_unigram import CHARSMAP

from convert import Options, convert, convert_adapter
from convert.vocab.charsmap import check_charsmap
from portable.errors import CheckpointError, UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")

# Converts sys.argv[1] with 1 GB of address space above what it has by then, and says how it ended.
PROGRAM = """
import resource, sys
from pathlib import Path
from convert.pipeline import convert
from portable.errors import PortableError
status = Path("/proc/self/status").read_text()
limit = (int(status.partition("VmSize:")[2].split()[0]) << 10) + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    done = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    print(*done.warnings)
except PortableError as error:
    print(type(error).__name__, error)
"""


def ended(folder: Path) -> str:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(folder.parent / "out.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny(tmp_path / "model", "qwen2")


LISTS = b"[" + b"[]," * (16 << 20) + b"[]]"
DEEP = b"[" * 10_000_000


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("bomb", [LISTS, DEEP], ids=["many lists", "deep"])
def test_a_json_bomb(name: str, bomb: bytes, model: Path) -> None:
    (model / name).write_bytes(bomb)
    assert f"CheckpointError {name} is not valid JSON: more than" in ended(model)


def test_a_json_file_that_is_too_large(model: Path) -> None:
    with (model / "tokenizer.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: it takes no room
    assert "tokenizer.json has 1048576 MB, which is too large" in ended(model)


def test_a_bomb_in_a_safetensors_header(model: Path) -> None:
    header = b'{"a": ' + LISTS + b"}"
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "CheckpointError model.safetensors has a header that is not JSON" in ended(model)


REFERENCES = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 20)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "card",
    [
        f"a: &a [lol, lol]\n{REFERENCES}tags: *i\n",
        "tags: &t [*t]\n",
        f"a: &a {'x' * 500_000}\ntags: [{', '.join(['*a'] * 5000)}]\n",
        f"name: {'x' * (2 << 20)}\n",
        f"tags: {'[' * 50_000}\n",
    ],
    ids=["references", "itself", "one long text", "a long head", "deep"],
)
def test_a_bomb_in_a_model_card_is_left_out(card: str, model: Path) -> None:
    (model / "README.md").write_text(f"---\n{card}---\n# Hi\n")
    assert "README.md is not used" in ended(model)


INSTEAD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", INSTEAD)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_something_else_than_a_file(name: str, kind: str, model: Path) -> None:
    (model / name).unlink()
    INSTEAD[kind](model / name)
    assert ended(model).startswith("CheckpointError")


def test_a_pipe_for_an_adapter_or_a_matrix(model: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "adapter", model, LINEAR)
    (adapter / "adapter_model.safetensors").unlink()
    os.mkfifo(adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="not an ordinary file"):
        convert_adapter(adapter, model, tmp_path / "out.gguf")
    os.mkfifo(tmp_path / "imatrix.gguf")
    with pytest.raises(UsageError, match="not an ordinary file"):
        convert(model, tmp_path / "out.gguf", Options(imatrix=tmp_path / "imatrix.gguf"))


def test_control_characters_never_reach_the_terminal(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = ["\x1b[2J\nAll is well" + "x" * 10_000]
    (model / "config.json").write_text(json.dumps(config))
    text = ended(model)
    assert r"\x1b[2J\nAll is well" in text and len(text) < 2500 and text.count("\n") == 1


def test_a_true_table_of_characters_passes() -> None:
    check_charsmap(CHARSMAP)


def table(units: list[int], replacements: bytes) -> bytes:
    packed = np.zeros(256, "<u4")
    packed[: len(units)] = units
    return struct.pack("<I", packed.nbytes) + packed.tobytes() + replacements


@pytest.mark.parametrize(
    "data",
    [
        b"\1\0",
        struct.pack("<I", 2**31) + bytes(100),
        table([1 << 30], b"a\0"),  # the root's children lie beyond the end
        table([0, 0x101], b"a"),  # a replacement without an end
        table([0, 0x101 | 300 << 10], b"a\0"),  # a child leads out
    ],
    ids=["short", "long", "root", "open", "out"],
)
def test_a_table_that_llama_cpp_would_end_on(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="charsmap is damaged"):
        check_charsmap(data)


def test_a_table_that_leads_in_circles_ends() -> None:
    # The byte 1 at the root leads to the root again.
    check_charsmap(table([0, 1 | 1 << 10], b"a\0"))
