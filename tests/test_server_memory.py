"""Memory that runs out in a server's model: it goes on with less, and knows that the next time.

The process that holds the model is made to find none where llama.cpp asks for it: a module of ours
that Python imports at its start gives llama.cpp's answer of such a case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ROOT, cli, model_file, until

from portable.server.told import died

# As the child starts; the parent and the probe are as always.
SCARCE = """
import ctypes, os, signal, sys
if "portable.engine.child" in sys.orig_argv:
    import llama_cpp as lib
    from portable.engine.native import libggml
    decode, make = lib.llama_decode, lib.llama_init_from_model
    def scarce_decode(context, batch):
        wants = lib.llama_n_ctx(context) > int(os.environ["ROOM_FOR"])
        if wants and batch.n_tokens > 200:
            if os.environ["BY"] == "abort":
                libggml.ggml_abort(b"ggml-cuda.cu", 1, b"CUDA error: out of memory")
            return -2
        return decode(context, batch)
    lib.llama_decode = scarce_decode
    def scarce_make(model, params):
        if os.environ["BY"] == "kill" and params.n_ctx > int(os.environ["ROOM_FOR"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return make(model, params)
    lib.llama_init_from_model = scarce_make
"""
LONG = "Repeat: " + "the quick brown fox " * 60


@pytest.fixture
def scarce(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What a server's environment is where a model's process finds too little memory."""
    (tmp_path / "sitecustomize.py").write_text(SCARCE, encoding="utf-8")
    yield {
        "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))),
        "PORTABLE_HOME": str(tmp_path / "home"),
        "ROOM_FOR": "4096",
    }


@pytest.mark.parametrize("by", ["decode", "abort"])
def test_the_request_is_answered_by_a_model_that_takes_less(
    scarce: dict[str, str], by: str
) -> None:
    env = scarce | {"BY": by}
    flags = (str(model_file()), "--port", "0", "--threads", "1")
    with cli(*flags, env=env) as server:
        until(server.is_ready, 60)
        first = server.meta()
        assert first["n_ctx"] == 8192, first
        reply = server.chat(LONG)
        assert reply.status_code == 200, reply.text + server.log
        assert server.meta()["n_ctx"] == 4096
        assert "memory ran out; started again, it takes less" in server.log
        assert "the model runs again: " in server.log and "a context of 4096" in server.log
        assert len(list((Path(env["PORTABLE_HOME"]) / "plans").iterdir())) == 1
    with cli(*flags, env=env) as server:
        until(server.is_ready, 60)
        assert server.meta()["n_ctx"] == 4096
        assert server.chat(LONG).status_code == 200
        assert "memory ran out the last time: a context of 4096" in server.log
        assert server.meta()["restarts"] == 0


def test_a_lesson_that_cannot_be_kept_ends_no_process(scarce: dict[str, str]) -> None:
    home = Path(scarce["PORTABLE_HOME"])
    home.write_text("no folder", encoding="utf-8")
    with cli(
        str(model_file()), "--port", "0", "--threads", "1", env=scarce | {"BY": "decode"}
    ) as it:
        until(it.is_ready, 60)
        reply = it.chat(LONG)
        assert reply.status_code == 500 and "memory ran out" in reply.text, reply.text
        assert it.chat("Hi.").status_code == 200 and it.meta()["restarts"] == 0


def test_a_process_that_the_system_kills_while_it_loads_is_told_as_want_of_memory(
    scarce: dict[str, str],
) -> None:
    with cli(str(model_file()), "--port", "0", "--threads", "1", env=scarce | {"BY": "kill"}) as it:
        assert it.ended(60) == 4, it.log
        assert "killed 3 times while it loaded, probably by the system because memory" in it.log


def test_a_process_that_is_killed_at_work_is_probably_so_for_memory() -> None:
    assert "memory" in died(-9, by_us=False).message
    assert "memory" not in died(-9, by_us=True).message
    assert "memory" not in died(-11, by_us=False).message
