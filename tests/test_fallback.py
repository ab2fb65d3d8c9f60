"""Memory that seemed free cannot be had: less is taken, said, remembered, and forgotten again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from serving import model_file
from workers import worker

from portable.engine import native
from portable.engine.child import Child
from portable.engine.config import EngineConfig
from portable.engine.embedding.pooled import Pooled
from portable.engine.fallback import Fallback, stepping_down
from portable.engine.llama import Llama
from portable.engine.native import allocation_failed, lib
from portable.engine.offload.device import GIB, MIB, Device
from portable.engine.offload.plan import Plan
from portable.engine.offload.shape import Layer, Shape
from portable.engine.offload.wish import Wish
from portable.engine.sequence import Delta
from portable.errors import NotEnoughMemory, OutOfMemory

HOST = Device("CPU", "", 16 * GIB, 32 * GIB, "cpu", "CPU")
GPU = Device("CUDA0", "Card", 6 * GIB, 8 * GIB, "gpu", "CUDA")
SHAPE = Shape(
    "llama", (Layer(200 * MIB, cache=4096),) * 20, 300 * MIB, 300 * MIB, False, 32000, 4096,
    trained_context=8192,
)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    return EngineConfig(tmp_path / "m.gguf", plans=tmp_path / "plans")


def planned(fallback: Fallback, *devices: Device) -> Plan:
    return fallback.plan(SHAPE, [*(devices or (GPU,)), HOST], Wish())


def test_each_plan_is_smaller_until_none_is_left(config: EngineConfig) -> None:
    tried: list[Plan] = []

    def fails(fallback: Fallback) -> None:
        tried.append(planned(fallback))
        raise OutOfMemory("there is none")

    with pytest.raises(OutOfMemory):
        stepping_down(config, fails)
    layers = [plan.gpu_layers for plan in tried]
    assert layers[0] > layers[1] > 0 and layers[-1] == 0 and layers == sorted(layers, reverse=True)
    assert tried[-1].context == 512 and tried[-1].kv_type == "q8_0"
    assert "memory ran out: " in tried[1].reason
    assert not list((config.plans or Path()).glob("*")), "nothing of it works: nothing to remember"


def test_only_what_was_planned_is_tried_with_less(config: EngineConfig) -> None:
    tried: list[Fallback] = []

    def refuses(fallback: Fallback) -> None:
        tried.append(fallback)
        raise NotEnoughMemory("the planner knows of no plan")

    with pytest.raises(NotEnoughMemory):
        stepping_down(config, refuses)
    assert len(tried) == 1


def test_what_was_learned_is_used_the_next_time(config: EngineConfig) -> None:
    first = Fallback(config)
    whole = planned(first)
    assert first.failed()
    less = planned(first)
    again = planned(Fallback(config))
    assert whole.gpu_layers > less.gpu_layers == again.gpu_layers
    assert "memory ran out the last time: " in again.reason
    (kept,) = (config.plans or Path()).iterdir()

    assert planned(Fallback(replace(config, plans=None))) == whole, "nobody asked to remember"
    other = replace(GPU, name="CUDA1")
    assert planned(Fallback(config), other).gpu_layers == whole.gpu_layers, "another device"
    for damage in (b"{", b'{"instead": "\xff"}', b"[]"):
        kept.write_bytes(damage)
        assert planned(Fallback(config)) == whole, "a damaged file counts as none"


def test_it_is_forgotten_when_clearly_more_is_free(config: EngineConfig) -> None:
    first = Fallback(config)
    whole = planned(first)
    assert first.failed()
    assert planned(Fallback(config), replace(GPU, free=GPU.free + 200 * MIB)) != whole
    roomy = planned(Fallback(config), replace(GPU, free=8 * GIB))
    assert roomy.gpu_layers >= whole.gpu_layers and "memory" not in roomy.reason
    assert not list((config.plans or Path()).iterdir())


def test_a_lesson_for_which_the_host_has_no_room_keeps_no_model_out(config: EngineConfig) -> None:
    first, full = Fallback(config), replace(HOST, free=3 * GIB)
    whole = first.plan(SHAPE, [GPU, full], Wish(context=512))
    while first.failed():
        least = first.plan(SHAPE, [GPU, full], Wish(context=512))
    assert 0 < least.gpu_layers < whole.gpu_layers
    assert not list((config.plans or Path()).iterdir()), "as far as the host had room"

    second = Fallback(config)
    planned(second)
    assert second.failed()
    (kept,) = (config.plans or Path()).iterdir()
    for _ in range(3):  # nothing is left to the host in the end
        planned(second)
        assert second.failed()
    small = replace(HOST, free=GIB)
    assert Fallback(config).plan(SHAPE, [GPU, small], Wish()).gpu_layers == whole.gpu_layers
    assert kept.exists(), "tomorrow it may be right again"


def test_it_is_forgotten_after_a_week_even_where_nothing_can_be_deleted(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Fallback(config)
    whole = planned(first)
    assert first.failed()
    (kept,) = (config.plans or Path()).iterdir()
    days = time.time() - 86400 * 6, time.time() - 86400 * 8
    os.utime(kept, (days[0], days[0]))
    assert planned(Fallback(config)) != whole
    os.utime(kept, (days[1], days[1]))

    def read_only(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", read_only)
    assert planned(Fallback(config)) == whole


@pytest.mark.parametrize(
    "line",
    [
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 3.00 MiB on device 0: cudaMalloc"
        " failed: out of memory",
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        "llama_kv_cache: failed to allocate buffer for kv cache",
        "ggml_vulkan: Device memory allocation of size 4096 failed.",
        "CUDA error: out of memory",
    ],
)
def test_words_for_memory_that_ran_out(line: str) -> None:
    assert allocation_failed(f"load_tensors: fine\n{line}\n") == line.strip()


@pytest.mark.parametrize(
    "line",
    [
        "failed to allocate 512.00 MiB of pinned memory: no such device",
        "compute buffer allocation failed, retrying without pipeline parallelism",
        "error loading model: tensor 'x' has wrong shape",
    ],
)
def test_words_for_something_else(line: str) -> None:
    assert not allocation_failed(line)


def test_a_context_that_cannot_be_made_makes_way_for_a_smaller_one(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lib.llama_init_from_model
    asked: list[int] = []

    def scarce(model: object, params: lib.llama_context_params) -> object:
        asked.append(params.n_ctx)
        if params.n_ctx > 2048:
            # As llama.cpp does where an allocation fails.
            heard = next(iter(native._listening.values()))
            heard.append("llama_kv_cache: failed to allocate buffer for kv cache\n")
            return None
        return made(model, params)

    monkeypatch.setattr(lib, "llama_init_from_model", scarce)
    config = EngineConfig(smollm2, threads=1, slots=2, plans=tmp_path)
    for tries in ([8192, 8192, 4096, 2048], [2048]):
        asked.clear()
        with closing(stepping_down(config, lambda f: Llama(config, fallback=f))) as llama:
            assert asked == tries, "the second time it is known"
            assert (llama.context, llama.plan.kv_type) == (2048, "q8_0")
            assert "memory ran out" in llama.plan.reason


def test_a_worker_without_the_memory_that_it_offers_gets_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def boasting(workers: tuple[str, ...]) -> tuple[list[Device], list[str]]:
        found, backends = native.list_devices(workers)
        return [replace(device, free=4 * GIB, total=4 * GIB) for device in found], backends

    monkeypatch.setattr("portable.engine.weights.list_devices", boasting)
    with worker("--port", "0", "--memory", "64MB") as lent:
        config = EngineConfig(
            model_file(),
            context=32768,
            threads=1,
            slots=4,
            gpu_layers="all",
            rpc=(lent.endpoint,),
            plans=tmp_path,
        )
        with closing(stepping_down(config, lambda f: Llama(config, fallback=f))) as llama:
            assert "memory ran out: at most" in llama.plan.reason
            assert llama.buffers.layers["CPU"] > 0, llama.buffers
        with closing(stepping_down(config, lambda f: Llama(config, fallback=f))) as llama:
            assert "memory ran out the last time: at most" in llama.plan.reason


def test_an_abort_for_want_of_memory_is_a_lesson_too(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from portable.engine.config import EngineConfig
from portable.engine.llama import Llama
from portable.engine.native import libggml
llama = Llama(EngineConfig(Path(sys.argv[1]), threads=1, plans=Path(sys.argv[2])))
libggml.ggml_abort(b"ggml-cuda.cu", 1, sys.argv[3].encode())
"""
    for words, code, files in (("some defect", -6, 0), ("CUDA error: out of memory", 4, 1)):
        done = subprocess.run(
            [sys.executable, "-c", program, str(model_file()), str(tmp_path), words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, len(list(tmp_path.iterdir()))) == (code, files), done.stderr
    assert done.stderr.strip() == "portable: memory ran out; started again, it takes less"
    config = EngineConfig(model_file(), threads=1, plans=tmp_path)
    with closing(stepping_down(config, lambda f: Llama(config, fallback=f))) as llama:
        assert llama.plan.kv_type == "q8_0" and "memory ran out the last time" in llama.plan.reason


def test_a_step_without_memory_ends_the_childs_life(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    child = Child.__new__(Child)
    fallback = SimpleNamespace(end=lambda: ended.append("less"))
    monkeypatch.setattr(child, "_send", lambda event: ended.append("told"), raising=False)
    monkeypatch.setattr(
        child,
        "_service",
        SimpleNamespace(weights=SimpleNamespace(fallback=fallback)),
        raising=False,
    )
    child._deliver([Delta("a", "x"), Delta("b", "", "error", None, ("backend_error", ""))])
    assert ended == ["told"]
    error = OutOfMemory("there is none")
    child._deliver([Delta("a", "", "error", None, (error.code or "", error.message))])
    assert ended == ["told", "less", "told"], "it goes on only where nothing smaller is left"


def test_vectors_without_memory_are_left_to_the_next_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []
    pooled = Pooled.__new__(Pooled)
    made = SimpleNamespace(
        weights=SimpleNamespace(fallback=SimpleNamespace(end=lambda: ended.append("less"))),
        _batch=SimpleNamespace(struct=SimpleNamespace(n_tokens=3)),
        _context=None,
    )
    vars(pooled).update(vars(made))
    monkeypatch.setattr("portable.engine.embedding.pooled.lib.llama_decode", lambda *_: -2)
    with pytest.raises(OutOfMemory):  # where nothing smaller is left
        pooled._decode()
    assert ended == ["less"]


def test_a_lesson_counts_for_the_next_process_if_it_is_kept(config: EngineConfig) -> None:
    for plans, known in ((config.plans, True), (None, False), (config.model / "no", False)):
        fallback = Fallback(replace(config, plans=plans))
        planned(fallback)
        assert fallback.learned() is known, plans
