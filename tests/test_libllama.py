"""llama.cpp that cannot run here: found out in a process of its own, and said in words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import model_file, running

from portable.engine import death, libllama, processor
from portable.engine.death import Cause
from portable.engine.libllama import Library
from portable.engine.probe import features
from portable.errors import EngineError

compiled = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs a C compiler on Linux"
)
Fake = Callable[..., None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes a libllama of that C source, which llama-cpp-python then loads."""

    def make(source: str, *flags: str) -> None:
        command = [
            "cc",
            "-shared",
            "-fPIC",
            "-x",
            "c",
            "-",
            "-x",
            "none",
            "-o",
            tmp_path / "libllama.so",
            *flags,
        ]
        subprocess.run(command, input=source.encode(), check=True)
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))

    return make


DIES = "__attribute__((constructor)) static void die(void) {{ {} }}"
ILLEGAL = DIES.format("__builtin_trap();")


@compiled
def test_an_illegal_instruction_is_told_in_words(fake: Fake) -> None:
    fake(ILLEGAL)
    found = libllama.look()
    assert isinstance(found, Cause) and found.mend == ""
    assert found.what.startswith("it was built for a processor with other instructions")


@compiled
@pytest.mark.parametrize("command", ["chat", "serve", "bench"])
def test_commands_end_with_one_line_that_names_the_doctor(fake: Fake, command: str) -> None:
    fake(ILLEGAL)
    question = ["Hello"] if command == "chat" else []
    run = [sys.executable, "-P", "-m", "portable.cli", command, str(model_file()), *question]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("portable: ")]
    assert "(SIGILL)" in line and "portable doctor" in line
    assert "Traceback" not in done.stderr


@compiled
def test_a_servers_child_that_dies_of_it_is_started_only_once(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(ILLEGAL)
    monkeypatch.setenv("PORTABLE_LLAMA_LOADED", libllama._key())  # as if it had worked before
    with running(ready=False) as server:
        assert server.ended() == 70
        (line,) = [x for x in server.log.splitlines() if x.startswith("portable: ")]
        assert "(SIGILL)" in line and "portable doctor" in line
        assert "Traceback" not in server.log and "starting it again" not in server.log


def test_what_runs_no_model_loads_no_llama_cpp() -> None:
    """So that it works beside one that is broken, and starts sooner."""
    rooms = "auto, catalogue, cli, doctor, facts, fit, hub, obtain, report, shelf, store, verify"
    code = f"import sys; from portable import {rooms}; import portable.server.run, convert.pipeline"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('llama_cpp' in sys.modules)"])
    assert done.returncode == 0


@compiled
def test_an_abort_while_it_is_loaded_is_told_with_its_words(fake: Fake) -> None:
    fake(
        "#include <stdlib.h>\n#include <stdio.h>\n"
        + DIES.format('fputs("no luck\\n", stderr); abort();')
    )
    assert libllama.look() == Cause("its process ended with SIGABRT: no luck")


@compiled
def test_a_library_that_libllama_needs_is_named(fake: Fake, tmp_path: Path) -> None:
    other = tmp_path / "libcudart.so.12"
    subprocess.run(["cc", "-shared", "-x", "c", os.devnull, "-o", other], check=True)
    fake("", "-Wl,--no-as-needed", str(other))
    other.unlink()
    assert libllama.look() == Cause(
        "CUDA's runtime is missing: libcudart.so.12", "install the CUDA toolkit of that version"
    )


@compiled
def test_an_older_library_lacks_a_function(fake: Fake) -> None:
    fake("int llama_old;")
    assert libllama.look() == Cause("its files do not fit together")


def test_damaged_files_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    found = libllama.look()
    assert isinstance(found, Cause) and found.what == "libllama is not where it should be"
    suffix = {"win32": "dll", "darwin": "dylib"}.get(sys.platform, "so")
    (tmp_path / f"libllama.{suffix}").write_bytes(b"\x7fELF")
    assert libllama.look() == Cause("its files are damaged")


@pytest.mark.parametrize(
    "words, what, mend",
    [
        ("libcuda.so.1: cannot open shared object file: No such file", "NVIDIA's driver", "driver"),
        ("libgomp.so.1: cannot open shared object file: No such file", "OpenMP", "apt install"),
        ("Error loading shared library libstdc++.so.6: No such file", "C++'s", "apk: libstdc++"),
        ("Library not loaded: @rpath/libomp.dylib", "libomp.dylib", "brew install libomp"),
        ("libx.so.3: cannot open shared object file: No such file", "libx.so.3", "libx.so.3"),
        ("libllama.so: wrong ELF class: ELFCLASS32", "another processor architecture", ""),
        ("(have 'x86_64', need 'arm64') incompatible architecture", "another processor", ""),
        ("[WinError 193] %1 is not a valid Win32 application", "another processor", ""),
        ("version `GLIBC_2.38' not found (required by libllama.so)", "GLIBC_2.38", ""),
        ("/lib/libggml.so: undefined symbol: ggml_new", "do not fit together", ""),
        ("Could not find module 'llama.dll' (or one of its dependencies)", "a DLL", "Visual C++"),
        ("No module named 'llama_cpp'", "not installed", ""),
        ("No module named 'numpy'", "package numpy", "pip install portable-llm"),
        ("NumPy was built with baseline optimizations: (X86_V2)", "numpy", "--no-binary numpy"),
        ("the moon is full", "the moon is full", ""),
    ],
)
def test_what_loaders_say_is_understood(words: str, what: str, mend: str) -> None:
    found = death.explain(None, words)
    assert what in found.what and mend in found.mend and bool(mend) == bool(found.mend)


def test_exit_codes_have_names_on_every_system() -> None:
    assert death.name(-4) == death.name(0xC000001D) == "SIGILL"
    assert death.name(3) == "exit code 3" and death.name(-77) == "signal 77"
    assert "memory" in death.explain(-9, "").mend


def test_what_is_here_says_what_it_is() -> None:
    found = libllama.look()
    assert isinstance(found, Library)
    assert found.version and found.commit and "CPU" in found.backends
    assert found.features["CPU"]["LLAMAFILE"] == "1"


def test_features_are_told_apart_by_backend() -> None:
    said = "CUDA : ARCHS = 860,890 | USE_GRAPHS = 1 | CPU : AVX2 = 1 | FMA = 1 | "
    assert features(said) == {
        "CUDA": {"ARCHS": "860,890", "USE_GRAPHS": "1"},
        "CPU": {"AVX2": "1", "FMA": "1"},
    }


def test_what_was_loaded_once_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib" / "libllama.so"
    library.parent.mkdir()
    library.write_bytes(b"one")
    answers = [Library("", "", {}, [], [], []), Cause("two", "")]
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(library.parent))
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PORTABLE_LLAMA_LOADED", raising=False)
    monkeypatch.setattr(libllama, "look", lambda: answers.pop(0))
    libllama.check()
    libllama.check()
    monkeypatch.delenv("PORTABLE_LLAMA_LOADED")
    libllama.check()
    assert len(answers) == 1
    library.write_bytes(b"another")
    with pytest.raises(EngineError, match="cannot run here: two") as raised:
        libllama.check()
    assert raised.value.exit_code == 70 and "portable doctor" in raised.value.hint


def test_a_death_that_is_the_models_own_fault_is_left_to_it() -> None:
    assert libllama.trouble(-6) is None
    assert "SIGILL" in str(libllama.trouble(-4))


LINUX = """processor : 0
model name : A fine processor
flags : fpu pni ssse3 avx avx2 f16c fma bmi2 avx512f amx_int8

processor : 1
flags : fpu
"""
MACOS = """machdep.cpu.brand_string: Apple M9
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
"""


def test_the_processor_by_each_systems_own_words(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(LINUX)
    name, found, _ = processor._linux(tmp_path / "cpuinfo")
    assert name == "A fine processor"
    assert found == {"SSE3", "SSSE3", "AVX", "AVX2", "F16C", "FMA", "BMI2", "AVX512", "AMX_INT8"}
    assert processor._linux(tmp_path / "none") == ("", (), ())
    assert processor._macos(MACOS) == ("Apple M9", {"MATMUL_INT8"}, {"MATMUL_INT8", "SME"})
    intel = "machdep.cpu.brand_string: Intel\nmachdep.cpu.leaf7_features: AVX2 BMI2\n"
    assert processor._macos(intel)[1] == {"AVX2", "BMI2"}


def test_this_processor_has_what_its_build_uses() -> None:
    found = libllama.look()
    chip = processor.processor()
    assert isinstance(found, Library) and chip.name
    used = {name for name, value in found.features["CPU"].items() if value == "1"}
    assert not used & chip.lacking and (used & chip.instructions or not chip.known)
