"""The native door: which copy of ggml it speaks with, and builds that load backends by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from portable.engine import native
from portable.errors import EngineError


class Dynamic:
    """libggml of a build with GGML_BACKEND_DL: it knows no backend until it is given a folder."""

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self.folders: list[bytes] = []

    def ggml_backend_reg_count(self) -> int:
        return len(self.folders)

    def ggml_backend_dev_count(self) -> int:
        return self._devices if self.folders else 0

    def ggml_backend_load_all_from_path(self, folder: bytes) -> None:
        self.folders.append(folder)


def test_backends_of_a_dynamic_build_come_from_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml = Dynamic(devices=1)
    monkeypatch.setattr(native, "libggml", ggml)
    native.start()
    native.start()
    package = Path(native.lib.__file__).parent / "lib"
    assert ggml.folders == [os.fsencode(package)]


def test_a_build_without_any_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "libggml", Dynamic(devices=0))
    with pytest.raises(EngineError, match="no backend of"):
        native.start()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_speaks_with_the_ggml_that_libllama_uses() -> None:
    code = "import portable.engine.native; print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {line.rpartition("/")[2] for line in maps.stdout.splitlines()}
    assert len([name for name in names if name.startswith("libggml.so")]) == 1


def test_a_function_is_looked_for_in_each_library() -> None:
    first, second = SimpleNamespace(both=1), SimpleNamespace(both=2, other=3)
    libraries = native.Libraries(first, second)
    assert (libraries.both, libraries.other) == (1, 3)
    with pytest.raises(AttributeError, match="have no absent"):
        _ = libraries.absent
