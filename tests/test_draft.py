"""A draft model beside the main one: never another answer, and off where it does not help."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import tiny
from fakes import FakeBackend, ask, make_engine, run, shout, text
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import cli

from convert import convert
from portable.engine.backend import Spelling
from portable.engine.config import EngineConfig
from portable.engine.draft import load_draft
from portable.engine.engine import Engine
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams, Usage
from portable.engine.speculation.draftmodel import DraftModel
from portable.engine.speculation.vocabularies import check_same
from portable.errors import EngineError, NotEnoughMemory, UsageError

Answer = Callable[[bytes], bytes]


def sometimes(right: float, answer: Answer = shout) -> Answer:
    """The answer with each letter right that often, the same ones each time."""

    def guess(prompt: bytes) -> bytes:
        lots = random.Random(1)
        return bytes(b if lots.random() < right else b"?"[0] for b in answer(prompt))

    return guess


def pair(
    draft: FakeBackend, main: FakeBackend | None = None, known: int = 257, **options: float | bool
) -> Engine:
    """An engine with a draft model ten times faster; rows cost little beside steps."""
    main = main or FakeBackend()
    main.step_seconds, main.token_seconds = 0.010, 0.001
    draft.step_seconds = 0.001

    def clock() -> float:
        return main.now + draft.now

    config = EngineConfig(Path("fake.gguf"), **options)  # type: ignore[arg-type]
    drafter = DraftModel(draft, known, config, draft.context, clock)
    engine = Engine(main, config, clock, draft=drafter)
    while engine.calibrate():
        pass
    for backend in (main, draft):
        backend.batches.clear()
        backend.now = 0.0
    return engine


def usage_of(engine: Engine, prompt: str) -> Usage:
    ask(engine, "a", prompt)
    deltas = run(engine)["a"]
    assert text(deltas) == prompt.upper() + "!" and deltas[-1].usage
    return deltas[-1].usage


def test_a_good_draft_makes_many_steps_one() -> None:
    engine = pair(FakeBackend())
    usage = usage_of(engine, "a long story " * 40)
    assert usage.accepted_tokens == usage.drafted_tokens > 400
    assert engine.steps < 120


def test_a_step_with_nobody_to_answer_leaves_the_draft_on() -> None:
    """An embedding on a model at rest is followed by such a step."""
    engine = pair(FakeBackend())
    assert engine.step() == []
    assert usage_of(engine, "a long story " * 40).accepted_tokens > 400


def test_a_useless_draft_is_turned_off() -> None:
    draft = FakeBackend(answer=sometimes(0))
    engine = pair(draft)
    for _ in range(4):
        usage_of(engine, "a long story " * 40)
    main = engine.backend
    assert isinstance(main, FakeBackend)
    rows = sum(size for batch in main.batches for _, size in batch if size < 16)
    guessed_rows = rows - 4 * 521
    assert 0 <= guessed_rows < 0.03 * rows
    assert engine.clock() < 1.03 * sum(0.010 + 0.001 * sum(n for _, n in b) for b in main.batches)
    plain = make_engine(priced(FakeBackend()))
    for _ in range(4):
        usage_of(plain, "a long story " * 40)
    assert engine.clock() < 1.03 * plain.clock()


def test_prompts_are_read_for_guesses_that_come_true_and_no_others() -> None:
    plain = make_engine(priced(FakeBackend()))
    useless = pair(draft := FakeBackend(answer=sometimes(0)))
    draft.token_seconds = 0.001  # a prompt takes it as long as the main model
    for number in range(5):
        usage_of(plain, str(number) * 150)
        usage_of(useless, str(number) * 150)
    assert useless.clock() < 1.03 * plain.clock() + 0.15 + 0.01
    useful = pair(draft := FakeBackend())
    for number in range(5):
        usage_of(useful, str(number) * 150)
    read = sum(size for batch in draft.batches for _, size in batch)
    assert read > 5 * 300 and useful.clock() < 0.6 * plain.clock()


def priced(backend: FakeBackend) -> FakeBackend:
    backend.step_seconds, backend.token_seconds = 0.010, 0.001
    return backend


@pytest.mark.parametrize("right", [0.5, 0.8])
def test_a_draft_that_is_sometimes_right_is_still_worth_it(right: float) -> None:
    engine = pair(FakeBackend(answer=sometimes(right)))
    plain = make_engine(priced(FakeBackend()))
    usage = usage_of(engine, "a long story " * 40)
    usage_of(plain, "a long story " * 40)
    assert 0 < usage.accepted_tokens < usage.drafted_tokens
    assert engine.clock() < plain.clock() * (0.75 if right > 0.7 else 1.0)


def test_both_may_guess_the_repetitions_first() -> None:
    draft = FakeBackend()
    engine = pair(draft, speculate=True)
    usage_of(engine, "to be repeated, " * 40)
    alone = FakeBackend()
    usage_of(pair(alone), "to be repeated, " * 40)
    assert 0 < len(draft.batches) < len(alone.batches) / 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("ab ", min_size=1, max_size=60), min_size=1, max_size=8),
    st.integers(150, 600),
    st.sampled_from([0.3, 0.9, 1.0]),
    st.sets(st.integers(0, 40), max_size=3),
)
def test_no_crowd_no_want_and_no_cancellation_changes_an_answer(
    prompts: list[str], cells: int, right: float, cancelled: set[int]
) -> None:
    """Slots and cells run out, sequences step back, requests end: the fakes assert positions."""
    draft = FakeBackend(cells // 2, answer=sometimes(right))
    engine = pair(draft, FakeBackend(cells), slots=3)
    for number, prompt in enumerate(prompts):
        ask(engine, str(number), prompt)
    said: dict[str, str] = dict.fromkeys(map(str, range(len(prompts))), "")
    for step in itertools.count():
        if step in cancelled:
            engine.cancel(str(step % len(prompts)))
            said.pop(str(step % len(prompts)), None)
        if not engine.has_work:
            break
        for delta in engine.step():
            if delta.id in said:
                said[delta.id] += delta.text
        assert step < 5000
    assert all(said[id] == prompts[int(id)].upper() + "!" for id in said)


def test_the_next_turn_is_read_by_the_draft_model_from_where_it_stood() -> None:
    draft = FakeBackend()
    engine = pair(draft)
    usage_of(engine, "x" * 200)
    draft.batches.clear()
    usage_of(engine, "x" * 200 + "y" * 20)
    assert sum(size for batch in draft.batches for _, size in batch) < 221 + 21 + 10


def test_a_draft_model_that_breaks_is_turned_off() -> None:
    draft = FakeBackend()
    engine = pair(draft)
    ask(engine, "a", "a long story " * 20)
    for _ in range(6):
        engine.step()
    draft.faults.append(EngineError("llama.cpp could not decode"))
    usage = run(engine)["a"][-1].usage
    assert usage and usage.completion_tokens == 261
    decodes = len(draft.batches)
    usage_of(engine, "again")
    assert len(draft.batches) == decodes


def test_tokens_that_one_of_them_does_not_know_stop_guessing_and_nothing_else() -> None:
    assert usage_of(pair(FakeBackend(), known=90), "a long story " * 10).drafted_tokens == 0
    assert usage_of(pair(FakeBackend(), known=90), "STORY " * 20).accepted_tokens > 50
    strange = FakeBackend(answer=lambda prompt: b"\xff" * 300)
    assert usage_of(pair(strange, known=90), "STORY " * 20).accepted_tokens == 0


def test_vocabularies_must_match() -> None:
    main = Spelling([b"a", b"b", b"c"], [], [])
    check_same(main, Spelling([b"a", b"b", b"c", b"<pad>"], [], []), "d.gguf")
    with pytest.raises(UsageError, match=r"1 of 3 tokens differ \(1\); 1 is 'b'.* and 'x'") as told:
        check_same(main, Spelling([b"a", b"x", b"c"], [], []), "d.gguf")
    assert told.value.exit_code == 2 and told.value.param == "draft"


def unlike(model: Path, target: Path) -> Path:
    """A random model of one layer with the vocabulary of another."""
    reader = gguf.GGUFReader(model)
    get = {key: field.contents() for key, field in reader.fields.items()}
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(get["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(get["tokenizer.ggml.pre"])
    writer.add_token_list(get["tokenizer.ggml.tokens"])
    writer.add_token_types(get["tokenizer.ggml.token_type"])
    writer.add_token_merges(get["tokenizer.ggml.merges"])
    lots = np.random.default_rng(1)
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (64, 64))
    blocks = {**square, "ffn_gate": (64, 64), "ffn_up": (64, 64), "ffn_down": (64, 64)}
    shapes = {f"blk.0.{name}": shape for name, shape in blocks.items()}
    shapes |= {"blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,), "output_norm": (64,)}
    shapes["token_embd"] = (len(get["tokenizer.ggml.tokens"]), 64)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", lots.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def said(config: EngineConfig) -> list[tuple[str, Usage]]:
    """One answer drawn greedily, and one at random."""
    llama = Llama(config)
    draft = load_draft(llama, config) if config.draft else None
    engine = Engine(llama, config, draft=draft)
    # Steps of any size cost the same, whatever this machine is doing.
    engine.costs.seconds = lambda rows: 1.0  # type: ignore[method-assign]
    tokens = llama.tokenize("The three primary colours are", special=True, start=True)
    answers = []
    for temperature in (0.0, 0.7):
        params = SamplingParams(temperature=temperature, seed=7, max_tokens=30)
        engine.add("a", tokens, params)
        deltas = run(engine)["a"]
        assert deltas[-1].usage
        answers.append((text(deltas), deltas[-1].usage))
    for model in filter(None, (draft, llama)):
        model.close()
    return answers


def test_the_text_of_a_real_model_stays_the_same(smollm2: Path, tmp_path: Path) -> None:
    # With flash attention a row of this model is the same among 1 to 63 others.
    plain = EngineConfig(smollm2, context=256, slots=2, threads=1, flash_attention="on")
    alone = [words for words, _ in said(plain)]
    (greedy, most), (drawn, some) = said(replace(plain, draft=smollm2))
    assert [greedy, drawn] == alone and most.accepted_tokens > 20 > some.accepted_tokens > 5
    other = unlike(smollm2, tmp_path / "tiny.gguf")
    drafted = said(replace(plain, draft=other))
    assert [words for words, _ in drafted] == alone
    assert all(usage.accepted_tokens < 3 for _, usage in drafted)


def test_what_does_not_fit_is_told_of(smollm2: Path, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    other = convert(folder, tmp_path / "other.gguf").path
    config = EngineConfig(smollm2, context=256, threads=1, draft=other)
    llama = Llama(config)
    with pytest.raises(UsageError, match=r"other\.gguf has another vocabulary: .* tokens differ"):
        load_draft(llama, config)
    llama._room = 1000  # bytes
    with pytest.raises(NotEnoughMemory, match=r"the draft model other\.gguf has no room: .* needs"):
        load_draft(llama, config)
    llama.close()
    with cli(str(smollm2), "--draft", str(other), "--port", "0", "--context", "256") as server:
        assert server.ended() == 2
        assert "other.gguf has another vocabulary" in server.log
