"""What is asked by flags reaches llama.cpp, which says so itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import tiny
from workers import worker

from convert import convert
from portable import gguf
from portable.engine import native
from portable.engine.buffers import Buffers
from portable.engine.config import LONGEST_CONTEXT, EngineConfig, LoadMode, Rope
from portable.engine.llama import Llama
from portable.engine.native import lib, listen, use_numa
from portable.engine.offload.shape import shape_of
from portable.engine.placement import experts_pattern, why_no_device
from portable.errors import UsageError
from portable.flags import Running


def config(**fields: object) -> EngineConfig:
    return EngineConfig(Path("x.gguf"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tensor_split": (0, 0)}, "a share of 0 or more"),
        ({"tensor_split": (float("nan"), 1)}, "a share of 0 or more"),
        ({"tensor_split": (1, 1), "main_gpu": 0}, "nothing to split"),
        ({"cpu_moe": -1}, "cpu moe is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(**fields)


@pytest.mark.parametrize(
    ("fields", "backends", "visible", "said"),
    [
        ({"gpu_layers": 0}, ["CUDA", "CPU"], None, "CPU, as asked by --gpu-layers 0"),
        ({"devices": ()}, ["CUDA", "CPU"], None, "CPU, as asked by --device none"),
        ({}, ["CPU", "RPC"], None, "CPU: llama.cpp is built without a GPU backend"),
        ({}, ["CUDA", "CPU"], "", "CPU: CUDA sees no GPU with CUDA_VISIBLE_DEVICES=''"),
        ({"gpu_layers": "all"}, ["Vulkan"], "0", "so --gpu-layers all has no effect"),
    ],
)
def test_why_everything_lies_on_the_host(
    fields: dict[str, object],
    backends: list[str],
    visible: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert said in why_no_device(config(**fields), [], backends)


def test_flags_become_the_configuration() -> None:
    flags = Running(device="CUDA0, RPC0", tensor_split="3,1.5", n_cpu_moe="ALL", numa="isolate")
    made = config(**flags.placement, rope=Running(rope_scale=4.0).rope)
    assert made.devices == ("CUDA0", "RPC0") and made.tensor_split == (3, 1.5)
    assert (made.cpu_moe, made.numa, made.rope.scale) == ("all", "isolate", 4)
    assert Running(device="none").placement["devices"] == ()
    assert Running().tokens == {"context": 0}
    assert Running(context="MAX").tokens == {"context": 0, "default_context": LONGEST_CONTEXT}


@pytest.mark.parametrize(
    "fields",
    [{"device": " , "}, {"tensor_split": "1,x"}, {"n_cpu_moe": "some"}, {"gpu_layers": "-1"}],
)
def test_flags_that_make_no_sense_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(fields)).replace('_', '-')}"):
        _ = Running(**fields).placement


@pytest.mark.parametrize("text", ["most", "-1", "1.5", ""])
def test_a_context_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--context"):
        _ = Running(context=text).tokens


@pytest.mark.parametrize("fields", [{"scale": 0}, {"yarn_ext_factor": -1}, {"freq_base": 1e99}])
def test_positions_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="rope"):
        Rope(**fields)


def test_the_expert_tensors_of_the_first_layers() -> None:
    pattern = re.compile(experts_pattern(11).decode())
    for name in ("blk.0.ffn_up_exps.weight", "blk.10.ffn_gate_up_exps", "blk.2.ffn_down_chexps"):
        assert pattern.search(name), name
    for name in ("blk.11.ffn_up_exps.weight", "blk.1.ffn_up.weight", "blk.1.ffn_up_shexp.weight"):
        assert not pattern.search(name), name


@pytest.mark.parametrize("mode", ["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"])
def test_the_file_is_read_as_asked(smollm2: Path, mode: LoadMode) -> None:
    with listen() as said:
        Llama(EngineConfig(smollm2, context=256, load_mode=mode, threads=1)).close()
    shown = {"auto": "mmap"}.get(mode, mode)
    assert f"(load_mode = {shown})" in "".join(said)


def test_the_longest_context_is_the_trained_one(smollm2: Path) -> None:
    for most, context in ((300, 300), (LONGEST_CONTEXT, 8192)):
        llama = Llama(EngineConfig(smollm2, default_context=most, threads=1, slots=1))
        llama.close()
        assert llama.context == -(-context // 256) * 256


def test_positions_are_stretched_as_asked(smollm2: Path) -> None:
    rope = Rope("yarn", 2, 50_000, 8192, 1, 1.5, 16, 2)
    with listen() as said:
        llama = Llama(EngineConfig(smollm2, context=512, rope=rope, threads=1))
    plain = EngineConfig(smollm2, context=512, threads=1)
    identities = llama.identity(EngineConfig(smollm2, rope=rope)), llama.identity(plain)
    llama.close()
    assert identities[0] != identities[1], "a prefix read with other positions is another prefix"
    assert llama.info().trained_context == 16384
    log = "".join(said)
    for name, value in (("base", "50000.0"), ("scale", "0.5")):
        assert re.search(rf"llama_context: freq_{name} += {value}$", log, re.M), name


def test_a_numa_strategy_is_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(lib, "llama_numa_init", asked.append)
    monkeypatch.setattr(native, "_NUMA", [])
    for strategy in ("off", "distribute", "isolate"):
        use_numa(strategy)
    assert asked == [lib.GGML_NUMA_STRATEGY_DISTRIBUTE]


def test_layers_and_experts_lie_where_they_are_asked_to(tmp_path: Path) -> None:
    model = convert(tiny(tmp_path / "m", "qwen3_moe"), tmp_path / "m.gguf").path
    shape = shape_of([gguf.read(model)])
    experts = [layer.experts for layer in shape.layers]
    with worker() as one, worker() as two:
        base = EngineConfig(
            model, context=256, slots=1, threads=1, rpc=(one.endpoint, two.endpoint)
        )
        both = {"gpu_layers": "all", "tensor_split": (2.0, 1.0)}
        lies = {
            name: where(replace(base, **fields))  # type: ignore[arg-type]
            for name, fields in {
                "two": both | {"cpu_moe": 0},
                "first on the host": both | {"cpu_moe": 1},
                "none away": both | {"cpu_moe": "all"},
                "one": {"gpu_layers": "all", "main_gpu": 1, "cpu_moe": 0},
                "host": {"devices": ()},
                "asked for one": {"gpu_layers": 1, "cpu_moe": 0},
            }.items()
        }
    away = {name: sum(buffers.weights.values()) for name, buffers in lies.items()}
    rounding = 2 * (1 << 20) / 100  # llama.cpp tells hundredths of a MiB
    assert sorted(lies["two"].layers.values()) == [1, 2]
    assert sum(experts) > rounding
    assert away["two"] - away["none away"] == pytest.approx(sum(experts), abs=rounding)
    moved = away["two"] - away["first on the host"]
    assert moved > 0 and moved == pytest.approx(experts[0], abs=rounding)
    assert len(lies["one"].layers) == 1 and "CPU" not in lies["one"].layers
    assert set(lies["host"].layers) == {"CPU"} and not away["host"]
    assert lies["asked for one"].layers["CPU"] == len(shape.layers)


def where(config: EngineConfig) -> Buffers:
    llama = Llama(config)
    llama.close()
    return llama.buffers
