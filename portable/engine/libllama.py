"""Whether llama.cpp can be loaded here, and what it is, found out in a process of its own.

An illegal instruction or a library that aborts while it is loaded ends a process, which no handler
in it could prevent. Imports nothing of llama.cpp.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from pathlib import Path

import msgspec

from portable.engine import death
from portable.engine.isolated import ask
from portable.engine.offload.device import Device
from portable.engine.processor import processor
from portable.errors import EngineError
from portable.folders import cache

# The key of a library that was loaded once without harm, for this process and its children.
_LOADED = "PORTABLE_LLAMA_LOADED"
# CUDA takes seconds to wake eight GPUs up.
_SECONDS = 60.0


class Library(msgspec.Struct, frozen=True):
    """What llama.cpp says of itself. `features` are each backend's, as it was compiled.

    `backends` are those that are loaded, `devices` what they see, `log` what they said on loading.
    """

    version: str
    commit: str
    features: dict[str, dict[str, str]]
    backends: list[str]
    devices: list[Device]
    log: list[str]


def folder() -> Path | None:
    """Where llama-cpp-python looks for its libraries; None: it is not installed."""
    given = os.environ.get("LLAMA_CPP_LIB_PATH")
    if given is not None:
        return Path(given)
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent / "lib" if spec and spec.origin else None


def look(seconds: float = _SECONDS) -> Library | death.Cause:
    """What is here, or why it cannot be loaded."""
    env = {**os.environ, _LOADED: _key()}
    return ask("portable.engine.probe", None, Library, seconds=seconds, env=env)


def check() -> None:
    """Raises EngineError when loading llama.cpp would end this process, or fail.

    What was loaded once is not tried again: the libraries and the processor would have to change.
    """
    key, record = _key(), cache() / "libllama"
    if os.environ.get(_LOADED) == key or _text(record) == key:
        return
    found = look()
    if isinstance(found, death.Cause):
        raise unusable(found)
    os.environ[_LOADED] = key
    with contextlib.suppress(OSError):  # then the next one looks again
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(key, encoding="ascii")


def trouble(code: int) -> EngineError | None:
    """Why no process with llama.cpp works here, after one ended with this code at its start.

    None: others do, it must have been its model.
    """
    if death.name(code) == "SIGILL":
        return unusable(death.explain(code, ""))
    found = look()
    return unusable(found) if isinstance(found, death.Cause) else None


def unusable(cause: death.Cause) -> EngineError:
    """The cause as an error, which names the way out."""
    mend = cause.mend or "it has to be built for this machine"
    return EngineError(
        f"llama.cpp cannot run here: {cause.what}",
        hint=f"{mend}; portable doctor shows the commands",
    )


def _key() -> str:
    """Another one as soon as a file of the library, or the processor, is another one."""
    there = folder()
    files = []
    with contextlib.suppress(OSError):
        files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in _files(there)]
    chip = processor()
    told = repr((str(there), files, chip.name, sorted(chip.instructions)))
    return hashlib.sha256(told.encode()).hexdigest()


def _files(there: Path | None) -> list[Path]:
    return sorted(there.iterdir()) if there else []


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="ascii")
    return ""
