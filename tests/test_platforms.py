"""Windows and macOS, as far as a Linux machine can see them: no POSIX-only call without a twin.

Names that another system lacks in `os` or `signal` are mypy's to find: `make lint` checks the types
for win32 and darwin, too. Here are those that it does not know of, and the twins themselves.
"""

from __future__ import annotations

import ast
import errno
import io
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from checkpoints import tiny
from test_layout import FILES, ROOT

from convert import convert, readback, writer
from convert.options import Options
from portable import cli, gguf, platforms, store
from portable.bench import machine as bench_machine
from portable.chat import terminal
from portable.engine import child, cores
from portable.engine.sequence import Delta
from portable.errors import UsageError

# A keyword of subprocess, a method of an event loop or a module that some system lacks; and files
# that only one has. Each place that may have one has its reason.
KEYWORDS = {"start_new_session", "preexec_fn", "pass_fds", "process_group", "umask"}
METHODS = {"add_signal_handler", "remove_signal_handler", "add_reader", "add_writer", "fork"}
MODULES = {"fcntl", "grp", "multiprocessing", "posix", "pty", "pwd", "resource", "termios", "tty"}
ALLOWED = {
    ("portable/platforms.py", "start_new_session"): "it is the twin",
    ("portable/engine/rpc/serve.py", "resource"): "imported on Linux; elsewhere nothing is limited",
    ("portable/engine/machine.py", "/sys"): "control groups, which only Linux has",
    ("portable/engine/machine.py", "/proc"): "the control groups of this process, as above",
    ("portable/engine/processor.py", "/proc"): "Linux's way; each system has its own there",
    (
        "portable/engine/adapters.py",
        "/sys",
    ): "PCI's devices as Linux lists them; else none is known",
    ("portable/engine/gpus.py", "/dev"): "nodes that only Linux has; Windows is always asked",
    ("portable/doctor/tools.py", "/sys"): "ROCm's kernel driver, which only Linux has",
}


def _found(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        match node:
            case ast.Call(keywords=keywords):
                found |= KEYWORDS & {keyword.arg for keyword in keywords if keyword.arg}
            case ast.Dict(keys=keys):  # for a call with `**`
                found |= KEYWORDS & {key.value for key in keys if isinstance(key, ast.Constant)}
            case ast.Attribute(attr=name) if name in METHODS:
                found.add(name)
            case ast.Import(names=names):
                found |= MODULES & {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module)):
                found |= MODULES & {module.partition(".")[0]}
            case ast.Constant(value=str(text)) if re.match("/(proc|sys|dev)(/|$)", text):
                found.add("/" + text.split("/")[1])
    return found


def test_what_only_some_systems_have_stays_where_its_twin_is() -> None:
    found = {(path.as_posix(), name) for path in FILES for name in _found(path)}
    assert not found - set(ALLOWED), "give it a twin, or a reason in ALLOWED"


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our modules take this system for Windows; what Windows lacks is not there."""
    for module in (platforms, cores, readback, writer, bench_machine):
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform="win32"))
    for name in ("getloadavg", "nice", "posix_fadvise", "sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    monkeypatch.setattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 16384, raising=False)


def test_a_child_on_windows_is_in_a_group_of_its_own(windows: None) -> None:
    assert platforms.own_group() == {"creationflags": 512}


@pytest.mark.skipif(sys.platform == "win32", reason="has no sessions")
def test_a_child_elsewhere_is_in_a_session_of_its_own() -> None:
    command = [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"]
    own = platforms.own_group()
    done = subprocess.run(command, capture_output=True, text=True, check=True, **own)
    assert done.stdout.strip() == "True"


def test_only_windows_calls_a_broken_pipe_an_invalid_argument(windows: None) -> None:
    invalid = OSError(errno.EINVAL, "Invalid argument")
    assert platforms.reader_left(invalid)
    assert not platforms.reader_left(OSError(errno.ENOSPC, "No space"))


def test_elsewhere_an_invalid_argument_is_a_failure() -> None:
    assert platforms.reader_left(BrokenPipeError())
    assert not platforms.reader_left(OSError(errno.EINVAL, "Invalid argument"))


def test_an_answer_whose_reader_left_is_no_disk_error(
    windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: str) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    gone = SimpleNamespace(write=write, isatty=lambda: False)
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(stdout=gone))
    with pytest.raises(BrokenPipeError):
        terminal.write("Hello")


def test_an_engine_whose_parent_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    engine = object.__new__(child.Child)
    engine._events, engine._writing = Gone(), threading.RLock()
    with pytest.raises(SystemExit) as left:
        engine._deliver([Delta("a", "text")])
    assert left.value.code == 0


def test_the_processor_is_known_without_affinity_or_niceness(windows: None) -> None:
    found = cores.find_cores()
    assert 1 <= found.threads <= (os.cpu_count() or 1)
    pinned = cores.Cores(frozenset({0}), 3, pinned=True)
    assert cores.settle(pinned, 0, eco=False) == (3, "")
    others = cores.OtherPrograms(found.logical)
    assert others(0.0) is None
    assert others(1.0) is not None
    assert Options().workers == os.cpu_count()
    assert bench_machine.machine().load is None


def test_on_battery_windows_has_its_own_word_for_low_priority(
    windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(cores, "_power", lambda: "on battery (50 %)")
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(nice=asked.append))
    threads, _ = cores.settle(cores.Cores(frozenset({0, 1}), 2), 0, eco=True)
    assert (threads, asked) == (1, [16384])


def test_a_file_is_read_back_without_advice_and_its_folder_not_synced(
    windows: None, tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    convert(tiny(tmp_path / "Tiny", "qwen2"), path, Options(quant="F16"))
    assert readback.read_tensors(path, gguf.read(path), lambda _: None).sha256
    writer.sync_folder(tmp_path / "not there")


def test_a_port_on_windows_is_for_one_server(windows: None) -> None:
    asked: list[tuple[int, int, int]] = []
    sock: Any = SimpleNamespace(setsockopt=lambda *option: asked.append(option))
    platforms.listen_alone(sock)
    assert asked == [(socket.SOL_SOCKET, -5, 1)]


@pytest.mark.parametrize("name", ["nul", "CON", "aux.gguf", "com1.Q4_K_M.gguf", "LPT9 .txt"])
def test_names_of_devices_are_known(name: str) -> None:
    assert platforms.is_reserved(name)
    assert not platforms.is_reserved(f"x{name}")
    assert not platforms.is_reserved(store.safe(name))


@pytest.mark.parametrize("name", ["qwen:7b.gguf", "what?.gguf", "nul.gguf", "a.", "b "])
def test_what_windows_cannot_store_is_refused_before_any_work(
    windows: None, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="is not a usable file name"):
        writer.check_output(tmp_path / name, tmp_path)
    writer.check_output(tmp_path / "qwen-7b.gguf", tmp_path)


def _streams(monkeypatch: pytest.MonkeyPatch, platform: str) -> io.BytesIO:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", write_through=True)
    fake = SimpleNamespace(platform=platform, stdout=stream, stderr=stream)
    monkeypatch.setattr(platforms, "sys", fake)
    return raw


def test_what_windows_redirects_is_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _streams(monkeypatch, "win32")
    monkeypatch.setattr(cli, "app", lambda: platforms.sys.stdout.write("你好"))
    cli.main()
    assert raw.getvalue().decode("utf-8") == "你好"


def test_elsewhere_the_locale_decides_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _streams(monkeypatch, "linux")
    platforms.tolerate_any_text()
    platforms.sys.stdout.write("é你")
    assert raw.getvalue() == "é?".encode("latin-1")
