"""Prefixes on disk with llama.cpp: a restart costs no answer a letter."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import tiny
from fakes import run, text

from convert import Options, convert
from portable import gguf
from portable.engine.config import EngineConfig
from portable.engine.engine import Engine
from portable.engine.llama import Llama
from portable.engine.prompts.cache import PromptCache
from portable.engine.sequence import Delta, SamplingParams
from portable.engine.service import Service
from portable.engine.worker import Streams

RULES = "".join(f"Rule {i}: always name the fruit number {i} first. " for i in range(80))
GREEDY = SamplingParams(temperature=0, max_tokens=12)


@contextmanager
def loaded(config: EngineConfig) -> Iterator[Any]:
    """A service until its process would end; the value asks it."""
    service = Service(config, streams := Streams())

    def ask(question: str) -> tuple[str, Delta]:
        streams.open("x")
        messages = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
        service.chat("x", messages, {}, GREEDY)
        deltas = list(streams.read("x"))
        return text(deltas), deltas[-1]

    try:
        yield ask
    finally:
        service.close()


@pytest.mark.parametrize(
    "how", [{"flash_attention": "on"}, {"kv_type": "q8_0"}, {"flash_attention": "off"}], ids=str
)
def test_a_restart_costs_no_prefix_and_changes_no_answer(
    smollm2: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    # With flash attention llama.cpp adds up in as many parts as there are threads, and these adapt.
    config = EngineConfig(smollm2, context=2048, slots=2, threads=1, prompt_cache=tmp_path, **how)
    with loaded(config) as ask:
        first, _ = ask("Name five fruits.")
        second, in_memory = ask("Name five fruits.")
    with loaded(config) as ask:
        again, last = ask("Name five fruits.")
    assert last.usage and in_memory.usage
    assert last.usage.cached_tokens == in_memory.usage.cached_tokens > 1000
    assert again == second
    # With flash attention llama.cpp rounds otherwise when it reads few tokens than when many.
    if how == {"flash_attention": "off"}:
        assert again == first


def test_a_damaged_file_never_reaches_llama_cpp(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EngineConfig(smollm2, context=2048, slots=2, threads=1, prompt_cache=tmp_path)
    with loaded(config) as ask:
        first, _ = ask("Name five fruits.")
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    given: list[object] = []
    monkeypatch.setattr(Llama, "load_state", lambda *call: given.append(call))
    with loaded(config) as ask:
        again, last = ask("Name five fruits.")
    assert again == first and last.usage and last.usage.cached_tokens == 0
    assert not given


def test_what_llama_cpp_refuses_leaves_the_slot_empty(smollm2: Path, tmp_path: Path) -> None:
    config = EngineConfig(smollm2, context=512, slots=2, threads=1, prompt_cache=tmp_path)
    llama = Llama(config)
    engine = Engine(llama, config)
    tokens = llama.tokenize("The history of tea. " * 12, special=False, start=True)
    engine.add("x", tokens, GREEDY)
    said = text(run(engine)["x"])
    slot = next(slot.id for slot in engine.scheduler.prefix.slots if slot.tokens)
    state = llama.save_state(slot, len(tokens), 1 << 30)
    assert state is not None
    assert llama.save_state(slot, len(tokens), state.nbytes - 1) is None
    llama.keep(0, 0)
    llama.keep(1, 0)
    assert not llama.load_state(1, len(tokens), state[:-1000])
    assert not llama.load_state(1, len(tokens) + 1, state)
    assert not llama.load_state(1, len(tokens), np.zeros(1000, np.uint8))
    assert llama.load_state(1, len(tokens), state)
    llama.keep(1, 0)
    fresh = Engine(llama, config)
    fresh.add("x", tokens, GREEDY)
    assert text(run(fresh)["x"]) == said
    llama.close()


def test_the_identity_tells_models_and_layouts_apart(smollm2: Path, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "checkpoint", "qwen2")
    model = convert(folder, tmp_path / "model.gguf", Options(quant="F32")).path
    plain = tmp_path / "plain.gguf"  # as other programs write them: without our checksum
    plain.write_bytes(model.read_bytes().replace(gguf.CHECKSUM.encode(), b"x" * len(gguf.CHECKSUM)))
    trained = bytearray(plain.read_bytes())
    trained[gguf.read(plain).start + 100] ^= 1
    (tmp_path / "trained.gguf").write_bytes(trained)
    shutil.copy(model, tmp_path / "copy.gguf")
    (tmp_path / smollm2.name).symlink_to(smollm2)

    def identity(name: str, **options: Any) -> bytes:
        config = EngineConfig(tmp_path / f"{name}.gguf", **{"context": 128, "slots": 1, **options})
        llama = Llama(config)
        found = llama.identity(config)
        llama.close()
        return found

    assert identity("model") == identity("copy") == identity("model", slots=3)
    different = [
        identity("model"),
        identity("plain"),
        identity("trained"),
        identity("model", context=512),
        identity("model", flash_attention="on"),
        identity(smollm2.stem),
        identity(smollm2.stem, kv_type="q8_0", flash_attention="on"),
        identity(smollm2.stem, flash_attention="on"),
    ]
    assert len(set(different)) == len(different)


WINDOW = {
    "num_hidden_layers": 7,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "sliding_window": 16,
    "max_position_embeddings": 2048,
}


# Under a window the order in which a crowd's cells lie, and so the rounding, follows from what was
# reused: there one request at a time is compared.
@pytest.mark.parametrize(
    ("kind", "shape", "crowd", "least"), [("llama", {}, 3, 3000), ("gemma3", WINDOW, 1, 1000)]
)
def test_no_restart_changes_an_answer(
    tmp_path: Path, kind: str, shape: dict[str, Any], crowd: int, least: int
) -> None:
    folder = tiny(tmp_path / "checkpoint", kind, **shape)
    model = convert(folder, tmp_path / "model.gguf", Options(quant="F32")).path
    # Flash attention adds up in one order, however many rows there are.
    config = EngineConfig(
        model, context=2048, slots=4, flash_attention="on", prompt_cache=tmp_path / "prompts"
    )
    alone = replace(config, prefix_cache=False)
    plain = Engine(Llama(alone), alone)
    draw = random.Random(0)
    talks: list[list[int]] = [[]]
    restored = 0
    for _ in range(12):
        llama = Llama(config)
        cache = PromptCache(tmp_path / "prompts", llama.identity(config))
        engine = Engine(llama, config, prompts=cache)
        for turn in range(2):
            prompts = {str(number): new_prompt(draw, talks) for number in range(crowd)}
            answers = [answer_all(each, prompts) for each in (engine, plain)]
            assert [text(answers[0][id]) for id in prompts] == [
                text(answers[1][id]) for id in prompts
            ]
            if turn == 0:
                usages = [answers[0][id][-1].usage for id in prompts]
                restored += sum(usage.cached_tokens for usage in usages if usage)
            talks += [slot.tokens for slot in engine.scheduler.prefix.slots if slot.tokens]
        engine.close()
        llama.close()
    assert restored > least


def new_prompt(draw: random.Random, talks: list[list[int]]) -> list[int]:
    """The beginning of something said before, and something new; at most a context."""
    begun = draw.choice([talk for talk in talks if len(talk) < 1200])
    begun = begun[: draw.choice([len(begun), len(begun), 300])]
    return begun + [draw.randrange(10, 200) for _ in range(draw.randrange(30, 500))]


def answer_all(engine: Engine, prompts: dict[str, list[int]]) -> dict[str, list[Delta]]:
    for id, tokens in prompts.items():
        engine.add(id, tokens, SamplingParams(temperature=0, max_tokens=3))
    return run(engine)
