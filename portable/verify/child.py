"""The trial of a GGUF file in a child process; knows what was asked, and judges nothing."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import msgspec

from portable.engine import death
from portable.engine.attempt import STEPS, Failed, Request, Result
from portable.engine.isolated import command

SECONDS = 600.0
_decode = msgspec.json.Decoder(Result).decode


@dataclass(frozen=True)
class Trial:
    """A child that waits for its request."""

    child: subprocess.Popen[bytes]
    out: IO[bytes]
    err: IO[bytes]

    def ask(self, request: Request) -> None:
        assert self.child.stdin
        with contextlib.suppress(OSError):  # then it is dead, and `results` says so
            self.child.stdin.write(msgspec.json.encode(request))
            self.child.stdin.close()

    def results(self) -> dict[str, Result]:
        """By step, as far as it came; the step at which it ended too early has Failed."""
        try:
            code = self.child.wait(SECONDS)
            end = f"llama.cpp ended the process ({death.name(code)}) {self._last_words()}".strip()
        except subprocess.TimeoutExpired:
            code, end = 1, f"no end after {SECONDS:.0f} seconds"
        self.out.seek(0)
        found = dict(zip(STEPS, map(_decode, self.out.read().splitlines())))
        if code:
            found[STEPS[min(len(found), len(STEPS) - 1)]] = Failed(end)
        return found

    def _last_words(self) -> str:
        self.err.seek(0)
        lines = self.err.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else ""


@contextlib.contextmanager
def started() -> Iterator[Trial]:
    """At once, so that it imports llama.cpp while its owner does something else."""
    # Files and not pipes: the child never waits for being read.
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        subprocess.Popen(
            command("portable.engine.trial"), stdin=subprocess.PIPE, stdout=out, stderr=err
        ) as child,
    ):
        try:
            yield Trial(child, out, err)
        finally:
            child.kill()
