"""`portable bench --prompt restart`: the same prefix before and after, on a real model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from portable.bench import BenchOptions, Restart, bench_restart, bench_server, to_json
from portable.bench.machine import machine
from portable.bench.restart import Round
from portable.engine.config import EngineConfig
from portable.errors import UsageError

OPTIONS = BenchOptions(requests=1, prompt="restart")


def test_a_round_reads_a_prefix_once_and_finds_it_after_a_restart(
    smollm2: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    config = EngineConfig(
        smollm2, context=2048, slots=1, threads=1, prompt_cache=tmp_path / "prompts"
    )
    made = bench_restart(config, OPTIONS, said.append)
    (only,) = made.rounds
    assert 1000 < only.cached_tokens < only.prompt_tokens < only.cached_tokens + 100
    assert made.ratio == only.warm / only.cold < 1
    assert len(said) == 1 and "on CPU" in str(made.machine.placement)
    assert list((tmp_path / "prompts").iterdir()) == [], "nothing of it stays"
    assert msgspec.json.decode(to_json(made), type=Restart) == made


def test_figures_as_lines() -> None:
    rounds = tuple(Round(cold=c, warm=0.2, prompt_tokens=1070, cached_tokens=1000) for c in (2, 4))
    lines = Restart(model="m.gguf", machine=machine(), rounds=rounds, ratio=0.075).lines()
    assert lines.splitlines()[1:] == [
        "1: 1070 tokens, cold 2.000 s; 1000 from the disk, warm 0.200 s: 0.100",
        "2: 1070 tokens, cold 4.000 s; 1000 from the disk, warm 0.200 s: 0.050",
        "median: 0.075 of the cold time",
    ]


def test_what_cannot_be_restarted_is_refused(smollm2: Path) -> None:
    with pytest.raises(UsageError, match="a server is not restarted"):
        bench_server("http://127.0.0.1:9", OPTIONS, print)
    with pytest.raises(UsageError, match="without a prompt cache"):
        bench_restart(EngineConfig(smollm2), OPTIONS, print)
