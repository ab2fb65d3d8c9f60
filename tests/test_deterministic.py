"""`--deterministic`: the same numbers, bit for bit, alone and in a crowd, whatever came before."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import tiny
from fakes import FakeBackend, ask, make_engine, run, text

from convert import Options, convert
from portable.engine.backend import Aborted
from portable.engine.config import CHUNK, EngineConfig
from portable.engine.engine import Engine
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams, Slice
from portable.errors import UsageError

ANSWER = SamplingParams(temperature=0, max_tokens=4)
Rows = dict[str, list[Any]]


# K-quants are rounded by where a row lies, and need rows of 256.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}


@pytest.fixture(scope="module", params=["SmolLM2", "Q4_K_M", "Q5_0", "Q8_0", "F16"])
def model(request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: Any) -> Path:
    if request.param == "SmolLM2":
        return smollm2
    return small(tmp_path_factory.mktemp("model"), request.param)


def small(folder: Path, quant: str) -> Path:
    checkpoint = tiny(folder / "checkpoint", "llama", **WIDE)
    return convert(checkpoint, folder / "m.gguf", Options(quant=quant)).path


def loaded(model: Path, **options: Any) -> tuple[Engine, Rows]:
    """An engine, and the logits of all tokens that it has drawn, by request."""
    options = {"context": 512, "threads": 1, "deterministic": True, **options}
    config = EngineConfig(model, **options)
    llama = Llama(config)
    decode, rows = llama.decode, {}

    def watched(slices: list[Slice]) -> Any:
        logits = decode(slices)
        asking = [part for part in slices if part.rows]
        for part, row in zip(asking, logits, strict=True):
            rows.setdefault(part.sequence.id, []).append(row.copy())
        return logits

    llama.decode = watched  # type: ignore[method-assign]
    return Engine(llama, config), rows


def some_prompts() -> dict[str, list[int]]:
    """Every second one begins with the same 150 tokens."""
    draw = random.Random(0)
    system = [draw.randrange(10, 200) for _ in range(150)]
    return {
        str(i): system * (i % 2) + [draw.randrange(10, 200) for _ in range(size)]
        for i, size in enumerate([3, 30, 64, 65, 7, 80, 20, 1])
    }


def test_a_crowd_an_order_and_a_prefix_change_no_number(model: Path) -> None:
    prompts, draw = some_prompts(), random.Random(1)
    engine, alone = loaded(model, slots=1, prefix_cache=False)
    for id, tokens in prompts.items():
        engine.add(id, tokens, ANSWER)
        run(engine)
    engine.backend.close()
    for crowd in (3, 16):
        engine, rows = loaded(model, slots=crowd, threads=2 if crowd == 3 else 1)
        reused = 0
        for again in "ab":  # with all that was read before
            for id in draw.sample(sorted(prompts), len(prompts)):
                engine.add(id + again, prompts[id], ANSWER)
                for _ in range(draw.choice([0, 0, 1, 2])):
                    engine.step()
            for deltas in run(engine).values():
                reused += deltas[-1].usage.cached_tokens if deltas[-1].usage else 0
        assert all(np.array_equal(numbers, alone[id[0]]) for id, numbers in rows.items())
        assert len(rows) == 2 * len(prompts) and reused >= 3 * CHUNK
        engine.backend.close()


def test_an_aborted_step_and_its_neighbours_change_no_number(tmp_path: Path) -> None:
    model, prompts = small(tmp_path, "Q5_0"), some_prompts()
    seen = []
    for aborted in (False, True):
        engine, rows = loaded(model, slots=2)
        for id in ("1", "3"):
            engine.add(id, prompts[id], ANSWER)
        for _ in range(3):
            engine.step()
            if aborted:
                engine.backend.abort()
        run(engine)
        seen.append(rows)
        engine.backend.close()
    assert all(np.array_equal(seen[0][id], seen[1][id]) for id in ("1", "3"))


def test_a_prompt_is_cut_in_the_same_places_whoever_else_reads() -> None:
    backend = FakeBackend(answer=lambda prompt: b"ok")
    engine = make_engine(backend, slots=4, deterministic=True)
    prompts = {"a": "a" * 200, "b": "b" * 129, "c": "c" * 62, "again": "a" * 200}
    for id, prompt in prompts.items():
        ask(engine, id, prompt)
    backend.faults = [Aborted()]
    assert {text(deltas) for deltas in run(engine).values()} == {"ok"}
    sizes = {
        id: [dict(batch)[id] for batch in backend.batches if id in dict(batch)] for id in prompts
    }
    assert sizes["a"] == [CHUNK, CHUNK, CHUNK, 201 - 3 * CHUNK, 1, 1]
    assert sizes["b"] == [CHUNK, CHUNK, 2, 1, 1] and sizes["c"] == [63, 1, 1]
    assert sizes["again"] == [201 - 3 * CHUNK, 1, 1], "whole chunks are shared"


def test_an_answer_is_never_read_as_a_prompt() -> None:
    backend = FakeBackend(answer=lambda prompt: b"o" * 150)
    engine = make_engine(backend, deterministic=True)
    ask(engine, "one", "q" * 70)
    run(engine)
    ask(engine, "two", "q" * 70 + ">" + "o" * 150 + "next")
    usage = run(engine)["two"][-1].usage
    assert usage and usage.cached_tokens == CHUNK


@pytest.mark.parametrize(
    "options",
    [
        {"flash_attention": "on"},
        {"kv_type": "q8_0"},
        {"draft": Path("x.gguf")},
        {"step_tokens": 32},
    ],
    ids=str,
)
def test_what_cannot_be_deterministic_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EngineConfig(Path("x.gguf"), deterministic=True, **options)
