"""A model that is unloaded gives back all that it took, and is there again when asked for."""

from __future__ import annotations

import psutil
from serving import cli, model_file, running, until
from typer.testing import CliRunner

from portable.cli import app


def resident(pid: int) -> int:
    """Bytes of a process and all that it started, what they share counted once."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(each.memory_full_info().pss for each in processes)


def test_unloading_gives_the_memory_back_every_time() -> None:
    with cli(str(model_file()), "--port", "0", "--threads", "1", "--keep-alive", "10m") as server:
        until(server.is_ready, 60)
        pid, sizes = server.process.pid, []
        for _ in range(3):
            assert server.chat().status_code == 200
            loaded = resident(pid)
            done = CliRunner().invoke(app, ["unload", "--url", server.url])
            assert done.exit_code == 0, done.output
            assert not psutil.Process(pid).children()
            sizes.append(resident(pid))
            assert loaded - sizes[-1] > 150 << 20, "weights and context"
        assert sizes[-1] - sizes[0] < 8 << 20, sizes


def test_what_cannot_be_unloaded_is_told() -> None:
    with running() as server:
        done = CliRunner().invoke(app, ["unload", "other", "--url", server.url])
        assert done.exit_code == 2 and "other" in done.output
        url = server.url
    done = CliRunner().invoke(app, ["unload", "--url", url])
    assert done.exit_code == 7 and "no server answers" in done.output
