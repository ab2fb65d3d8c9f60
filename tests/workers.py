"""Workers in processes of their own, for tests: started, killed, stopped, by their ids."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from serving import ROOT, until


class Worker:
    """`portable worker` on loopback, unless the arguments say otherwise."""

    def __init__(
        self, *arguments: str, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        descriptor, name = tempfile.mkstemp(prefix="portable-test-")
        self._said = Path(name)
        command = [sys.executable, "-P", "-m", "portable.cli", "worker", "--threads", "1"]
        self.process = subprocess.Popen(
            [*prefix, *command, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=descriptor,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            start_new_session=True,
        )
        os.close(descriptor)

    @property
    def log(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    @property
    def endpoint(self) -> str:
        """HOST:PORT, once it listens."""
        found = until(lambda: self._listening() or self.process.poll() is not None, 60)
        assert found is not True, self.log
        return str(found)

    @property
    def child(self) -> psutil.Process:
        """ggml's server."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def kill(self) -> None:
        """As a machine that is switched off: no process of it is left."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [psutil.Process(self.process.pid), *self._children()]:
                process.kill()
        self.process.wait(10)

    def close(self) -> None:
        self.kill()
        self._said.unlink(missing_ok=True)

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def _listening(self) -> str | None:
        found = re.search(r"listening on (\S+) ", self.log)
        return found[1] if found else None


@contextlib.contextmanager
def worker(
    *arguments: str, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[Worker]:
    """A worker that listens; `worker.endpoint` is for `--rpc`."""
    made = Worker(*(arguments or ("--port", "0")), prefix=prefix, env=env)
    try:
        assert made.endpoint
        yield made
    finally:
        made.close()
