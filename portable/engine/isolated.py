"""A module of ours in a process of its own: what aborts in it ends nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, TypeVar

import msgspec

from portable.engine import death

_T = TypeVar("_T")


def command(module: str, *arguments: str) -> list[str]:
    """What runs it, with this Python."""
    # -P keeps the folder that the user happens to stand in out of the module path.
    return [sys.executable, "-P", "-m", module, *arguments]


def ask(
    module: str,
    request: Any,
    answer: type[_T],
    *,
    seconds: float,
    env: Mapping[str, str] | None = None,
) -> _T | death.Cause:
    """Its answer on stdout to the request on stdin, both JSON; or why there is none."""
    try:
        done = subprocess.run(
            command(module),
            input=msgspec.json.encode(request),
            capture_output=True,
            timeout=seconds,
            env=env,
        )
    except subprocess.TimeoutExpired:
        return death.Cause(f"it does not come back within {seconds:.0f} s")
    with contextlib.suppress(msgspec.MsgspecError):
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=answer)
    return death.explain(done.returncode, _error(done.stderr))


def claimed_stdout() -> BinaryIO:
    """Stdout for answers alone: what a library prints goes to stderr from now on."""
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return stdout


def _error(said: bytes) -> str:
    """The first error that was written, which caused the others; else the last line."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    errors = (line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line))
    return next(errors, lines[-1] if lines else "")
