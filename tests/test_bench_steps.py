"""`portable bench --prompt steps`: what a step costs and how much of it is ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from portable.bench import BenchOptions, Shape, Steps, bench_server, bench_steps, to_json
from portable.bench.machine import machine
from portable.bench.steps import Cost
from portable.engine.config import EngineConfig
from portable.errors import UsageError

OPTIONS = BenchOptions(requests=1, prompt="steps")
SMALL = Shape(depths=(0, 64), prompt=32, answer=8, crowd=4, crowd_answer=4)


def test_one_stream_at_each_depth_and_a_crowd(smollm2: Path) -> None:
    said: list[str] = []
    config = EngineConfig(smollm2, context=256, threads=1, flash_attention="on")
    made = bench_steps(config, OPTIONS, said.append, SMALL)
    assert [(c.streams, c.depth) for c in made.costs] == [(1, 0), (1, 64), (4, 0)]
    assert [c.prefill_rate is None for c in made.costs] == [False, False, True]
    assert [c.predicted_decode_rate is None for c in made.costs] == [False, False, True]
    for cost in made.costs:
        assert cost.decode_rate == pytest.approx(cost.streams / cost.step)
        assert 0 < cost.own < cost.step
    # The rest is ggml's; how little ours is depends on the machine, which is not quiet here.
    assert made.costs[0].own < 0.2 * made.costs[0].step
    assert msgspec.json.decode(to_json(made), type=Steps) == made
    assert "1 threads" in made.lines() and len(made.lines().splitlines()) == 4


def test_a_context_that_is_too_short_is_refused(smollm2: Path) -> None:
    with pytest.raises(UsageError, match="holds 256 tokens, these steps need 2562"):
        bench_steps(EngineConfig(smollm2, context=256, threads=1), OPTIONS, print)
    with pytest.raises(UsageError, match="a server is not stepped through"):
        bench_server("http://127.0.0.1:9", OPTIONS, print)


def test_figures_as_lines() -> None:
    cost = Cost(streams=1, depth=2048, prefill_rate=250.04, decode_rate=50, step=0.02, own=0.0001)
    lines = Steps(model="m.gguf", machine=machine(), rounds=3, costs=(cost,)).lines()
    assert lines.splitlines()[1] == (
        "1 at depth 2048: reads 250.0 tok/s, answers 50.0 tok/s; "
        "a step 20.00 ms, of it outside llama.cpp 0.100 ms (0.5%)"
    )
    cost = replace(cost, predicted_prefill_rate=225.0, predicted_decode_rate=51)
    lines = Steps(model="m.gguf", machine=machine(), rounds=3, costs=(cost,)).lines()
    assert lines.endswith("; predicted: reads 225.0 (-10%), answers 51.0 (+2%)")
