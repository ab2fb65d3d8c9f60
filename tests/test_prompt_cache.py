"""Prefixes on disk: what is saved, what comes back, and what is never believed."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fakes import ASK, GREEDY, FakeBackend, ask, make_engine, run, text
from hypothesis import given, settings
from hypothesis import strategies as st

from portable.engine.backend import Aborted
from portable.engine.engine import Engine
from portable.engine.prefix import Slot
from portable.engine.prompts import file as promptfile
from portable.engine.prompts.cache import PromptCache
from portable.engine.prompts.file import Damaged
from portable.engine.prompts.plan import superseded, worth_restoring, worth_saving
from portable.engine.worker import Streams, Worker

ID = b"i" * 32
SYSTEM = "".join(f"rule {i}, " for i in range(100))[:800]  # whole groups of tokens


def engine(folder: Path, *, most: int = 1 << 20, id: bytes = ID, **options: float) -> Engine:
    backend = FakeBackend(answer=lambda prompt: b"ok")
    return make_engine(backend, PromptCache(folder, id, most), **options)


def cached(engine: Engine, prompt: str) -> int:
    """How much of a prompt was not read again; the answer is checked on the way."""
    ask(engine, "x", prompt)
    deltas = run(engine)["x"]
    assert text(deltas) == "ok" and deltas[-1].usage
    return deltas[-1].usage.cached_tokens


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# --- what an engine does with it ---


def test_a_prefix_outlives_the_process(tmp_path: Path) -> None:
    first = engine(tmp_path)
    assert cached(first, SYSTEM + "one") == 0
    first.close()
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    second = engine(tmp_path)
    assert cached(second, SYSTEM + "two") == len(SYSTEM)
    assert [count for _, count in second.backend.batches[0]] == [len("two>")]  # type: ignore[attr-defined]


def test_nothing_is_saved_that_is_read_as_fast(tmp_path: Path) -> None:
    short = engine(tmp_path)
    assert cached(short, "a" * 200) == 0
    assert not short.save_prompt()
    short.close()
    assert files(tmp_path) == []


def test_a_beginning_that_several_share_is_saved_and_not_each_of_them(tmp_path: Path) -> None:
    served = engine(tmp_path, slots=4)
    for name in "abc":
        ask(served, name, SYSTEM + name * 100)
    run(served)
    assert served.save_prompt()
    while served.save_prompt():
        time.sleep(0.01)
    (file,) = files(tmp_path)
    assert len(promptfile.read_head(file, ID).tokens) == len(SYSTEM)
    served.close()
    (file,) = files(tmp_path)
    latest = SYSTEM + "c" * 100
    assert bytes(promptfile.read_head(file, ID).tokens) == latest.encode(), "at the end also that"
    assert cached(engine(tmp_path), SYSTEM + "d" * 300) == len(SYSTEM)


def test_a_conversation_is_saved_again_when_it_has_grown_and_replaces_itself(
    tmp_path: Path,
) -> None:
    chat = engine(tmp_path)
    talk = SYSTEM
    sizes = []
    for new in (10, 20, 400):
        talk += "x" * new
        cached(chat, talk)
        while chat.save_prompt():
            time.sleep(0.01)
        talk += ">ok"
        sizes.append([len(promptfile.read_head(file, ID).tokens) for file in files(tmp_path)])
    chat.close()
    whole = len(talk) // 4 * 4
    assert [len(found) for found in sizes] == [1, 1, 1]
    assert sizes[0] == sizes[1] and sizes[2] == [whole]


def test_a_state_that_is_longer_than_the_prompt_gives_its_cells_back(tmp_path: Path) -> None:
    first = engine(tmp_path)
    cached(first, SYSTEM + "a" * 2000)
    first.close()
    second = engine(tmp_path)
    assert cached(second, SYSTEM + "b") == len(SYSTEM)
    assert second.scheduler.prefix.free_cells == second.backend.cells - len(SYSTEM + "b>ok")


def test_room_is_made_among_idle_prefixes_and_never_taken_from_who_runs(tmp_path: Path) -> None:
    first = engine(tmp_path)
    cached(first, SYSTEM + "one")
    first.close()
    cells = len(SYSTEM) + 400
    backend = FakeBackend(cells=cells, answer=lambda prompt: b"ok")
    second = make_engine(backend, PromptCache(tmp_path, ID), slots=4)
    ask(second, "idle", "i" * 390)
    run(second)
    assert cached(second, SYSTEM + "two") == len(SYSTEM)
    ask(second, "other", "o" * 600)
    second.step()
    ask(second, "late", SYSTEM + "three")
    answers = run(second)
    assert {name: text(deltas) for name, deltas in answers.items()} == dict.fromkeys(
        ("other", "late"), "ok"
    )
    assert second.scheduler.prefix.free_cells >= 0


def test_under_a_sliding_window_only_a_whole_state_is_continued(tmp_path: Path) -> None:
    def windowed() -> Engine:
        made = engine(tmp_path)
        made.backend.window = 64
        return made

    first = windowed()
    cached(first, SYSTEM + "one")
    first.close()
    assert cached(windowed(), SYSTEM + "two") == 0
    assert cached(windowed(), SYSTEM + "one>ok, and then") == len(SYSTEM + "one>")


def test_what_the_backend_refuses_goes_and_the_prompt_is_read(tmp_path: Path) -> None:
    first = engine(tmp_path)
    cached(first, SYSTEM)
    first.close()
    second = engine(tmp_path)
    second.backend.load_state = lambda *_: False  # type: ignore[method-assign]
    assert cached(second, SYSTEM) == 0
    assert files(tmp_path) == []


def test_a_slot_that_is_lost_as_a_state_comes_back_harms_nobody(tmp_path: Path) -> None:
    """A decode was interrupted, and its slot cannot be brought back to its mark."""

    def recurrent() -> tuple[FakeBackend, Engine]:
        backend = FakeBackend(recurrent=True)
        cache = PromptCache(tmp_path, ID, 1 << 22)
        return backend, make_engine(backend, cache, slots=2, step_tokens=64)

    first = recurrent()[1]
    ask(first, "a", f"<{SYSTEM}<one")
    run(first)
    first.close()
    backend, second = recurrent()
    ask(second, "b", "<" + "other " * 100 + "<end")
    while not second.scheduler.prefix.slots[0].marks:
        second.step()
    backend.faults.append(Aborted())
    second.step()
    backend.lost_parts = 1
    ask(second, "c", f"<{SYSTEM}<two")
    answers = run(second)
    assert text(answers["b"]) == "<" + "OTHER " * 100 + "<END!"
    assert text(answers["c"]) == f"<{SYSTEM.upper()}<TWO!"


def test_the_worker_saves_when_it_has_had_nothing_to_do_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portable.engine.worker._PAUSE", 0.01)
    streams = Streams()
    worker = Worker(engine(tmp_path), streams)
    for number in range(3):
        streams.open(str(number))
        worker.submit(str(number), list(f"{number}{SYSTEM}".encode() + ASK), GREEDY)
        assert text(list(streams.read(str(number)))) == "ok"
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("*.prompt"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list(tmp_path.glob("*.prompt"))) == 3
    worker.close()


def test_an_error_while_saving_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("portable.engine.worker._PAUSE", 0.01)
    made, streams = engine(tmp_path), Streams()
    made.backend.save_state = fail  # type: ignore[method-assign, assignment]
    worker = Worker(made, streams)
    for id in "ab":
        streams.open(id)
        worker.submit(id, list(SYSTEM.encode() + ASK), GREEDY)
        assert text(list(streams.read(id))) == "ok"
        time.sleep(0.1)
    worker.close()
    assert "ZeroDivisionError: ours" in caplog.text


PIECES = [name * count for name in "abc" for count in (40, 140, 400)]
TALKS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(TALKS, max_size=6), max_size=4),
    st.integers(1, 3),
    st.sampled_from([64, 1 << 20]),
    st.sampled_from([5000, 1 << 20]),
)
def test_no_traffic_and_no_restart_changes_an_answer(
    lives: list[list[str]], slots: int, window: int, most: int
) -> None:
    """Wrong tokens in a slot, or cells counted wrongly, would fail in the fake or in the answer."""
    with tempfile.TemporaryDirectory() as folder:
        for prompts in lives:
            backend = FakeBackend(cells=1600)
            backend.window = window
            made = make_engine(backend, PromptCache(Path(folder), ID, most), slots=slots)
            said: dict[str, str] = {}
            for number, prompt in enumerate(prompts):
                ask(made, str(number), prompt[:700])
                for _ in range(number):
                    for delta in made.step():
                        said[delta.id] = said.get(delta.id, "") + delta.text
                made.save_prompt()
            for id, deltas in run(made).items():
                said[id] = said.get(id, "") + text(deltas)
            assert said == {str(n): prompt[:700].upper() + "!" for n, prompt in enumerate(prompts)}
            made.close()
            assert sum(path.stat().st_size for path in Path(folder).iterdir()) <= most


# --- the decisions ---


def slot(id: int, tokens: str, used_at: int) -> Slot:
    return Slot(id, list(tokens.encode()), used_at=used_at)


def plan(*slots: Slot, saved: tuple[str, ...] = (), at_end: bool = False) -> tuple[int, int] | None:
    known = [list(text.encode()) for text in saved]
    found = worth_saving(slots, known, window=1 << 20, intact=lambda *_: True, at_end=at_end)
    return (found.slot.id, found.count) if found else None


def test_what_is_worth_saving() -> None:
    begin = "s" * 300
    one, two, other = slot(0, begin + "a" * 300, 1), slot(1, begin + "b" * 51, 2), slot(2, "", 3)
    assert plan(one, two, other) == (1, 300)
    assert plan(one, two, saved=(begin,)) == (0, 600)
    assert plan(two, saved=(begin,)) is None
    assert plan(two, saved=("s" * 280,), at_end=True) == (1, 348)
    assert plan(two, saved=(begin,), at_end=True) is None, "fifty tokens are read in no time"
    assert plan(slot(0, "a" * 255, 1), at_end=True) is None
    assert plan(slot(0, "a" * 300, 1), slot(1, "b" * 300, 9)) == (1, 300), "the latest first"
    long = "l" * 9000
    assert plan(slot(0, long + "n" * 800, 1), saved=(long,)) is None, "less than a tenth is new"


def test_what_is_worth_restoring() -> None:
    prompt = list(range(1000))
    saved = {"long": [*range(600), *range(5000)], "short": list(range(600)), "no": [5] * 900}
    assert worth_restoring(prompt, 0, saved, 1 << 20) == ("short", 600)
    assert worth_restoring(prompt, 472, saved, 1 << 20) == ("short", 600)
    assert worth_restoring(prompt, 473, saved, 1 << 20) is None
    assert worth_restoring(prompt, 0, {"window": list(range(1100))}, 64) is None
    assert worth_restoring(list(range(600)), 0, saved, 1 << 20) == ("short", 596)


def test_a_longer_state_replaces_its_own_beginnings_but_short_ones() -> None:
    saved = {"turn": list(range(700)), "system": list(range(300)), "other": [9] * 700}
    assert list(superseded(list(range(1000)), saved, 1 << 20)) == ["turn"]
    assert list(superseded(list(range(1000)), saved, 64)) == []


# --- the folder ---


def fill(cache: PromptCache, *starts: int, size: int = 1000, age: float = 0) -> None:
    for start in starts:
        cache.write(list(range(start, start + 300)), np.full(size, start % 251, np.uint8), (), age)
        cache.wait()


def test_the_folder_is_bounded_across_models_and_the_longest_unused_goes(tmp_path: Path) -> None:
    one, two = PromptCache(tmp_path, ID, 8000), PromptCache(tmp_path, b"j" * 32, 8000)
    fill(one, 0, age=30)
    fill(one, 1000, age=20)
    (used,) = [path for path, tokens in one.states.items() if tokens[0] == 0]
    assert one.read(used) is not None
    fill(two, 0, 1000)
    two.scan()
    one.scan()
    assert [tokens[0] for tokens in one.states.values()] == [0]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 8000
    fill(two, 2000, age=3600)
    two.scan()
    assert sorted(tokens[0] for tokens in two.states.values()) == [0, 1000], (
        "what was used later stays"
    )
    for cache in (one, two):
        cache.close()


def test_what_finds_no_room_replaces_nothing(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, ID, 4000)
    fill(cache, 0)
    (old,) = cache.states
    cache.write(list(range(400)), np.zeros(3000, np.uint8), [old], age=3600)
    cache.wait()
    cache.scan()
    assert list(cache.states) == [old] and cache.read(old) is not None
    cache.close()


def test_a_state_over_the_bound_is_never_written(tmp_path: Path) -> None:
    small = engine(tmp_path, most=4 * len(SYSTEM))
    cached(small, SYSTEM)
    small.close()
    assert files(tmp_path) == []


def test_a_disk_that_is_full_only_ends_saving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = engine(tmp_path)
    cached(made, SYSTEM)
    with file_size_limit(2000), caplog.at_level(logging.WARNING):
        made.close()
        assert cached(made, "b" * 600) == 0
        assert not made.save_prompt()
    assert files(tmp_path) == []
    assert [record.message.split(":")[1] for record in caplog.records] == [" File too large"]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_made_only_ends_saving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    made = engine(tmp_path / "file" / "below")
    assert cached(made, SYSTEM) == 0
    made.close()
    assert len(caplog.records) == 1


def test_two_processes_may_delete_under_each_other(tmp_path: Path) -> None:
    first = engine(tmp_path)
    cached(first, SYSTEM)
    first.close()
    second, third = engine(tmp_path), engine(tmp_path)
    shutil.rmtree(tmp_path)
    assert cached(second, SYSTEM) == 0
    second.close()
    assert cached(third, "a" * 300) == 0
    third.close()
    assert len(files(tmp_path)) == 2
    assert cached(engine(tmp_path), SYSTEM) == len(SYSTEM) - 4


def test_two_at_once_in_one_folder_do_each_other_no_harm(tmp_path: Path) -> None:
    errors: list[str] = []

    def work(number: int) -> None:
        try:
            cache = PromptCache(tmp_path, ID, 20_000)
            for start in range(150):
                fill(cache, start % 40 + number, size=3000)
                cache.scan()
                for path in list(cache.states):
                    state = cache.read(path)
                    assert state is None or state.nbytes == 3000
            assert cache.most, "given up"
            cache.close()
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 20_000 + 2 * 5000


@pytest.mark.parametrize("name", ["flip head", "flip tokens", "flip state", "cut", "grow", "empty"])
def test_damage_is_seen_and_the_file_deleted(tmp_path: Path, name: str) -> None:
    first = engine(tmp_path)
    cached(first, SYSTEM)
    first.close()
    (file,) = files(tmp_path)
    data = bytearray(file.read_bytes())
    if name.startswith("flip"):
        data[{"head": 90, "tokens": 300, "state": len(data) - 9}[name.split()[1]]] ^= 4
    file.write_bytes({"cut": data[:-1], "grow": data + b"x", "empty": b""}.get(name, data))
    assert cached(engine(tmp_path), SYSTEM) == 0
    assert files(tmp_path) == []


def test_another_models_states_are_left_alone(tmp_path: Path) -> None:
    first = engine(tmp_path)
    cached(first, SYSTEM)
    first.close()
    other = engine(tmp_path, id=b"j" * 32)
    assert cached(other, SYSTEM) == 0
    other.close()
    assert len(files(tmp_path)) == 2
    (foreign, own) = sorted(files(tmp_path), key=lambda file: file.name.startswith(ID.hex()[:4]))
    foreign.replace(own)
    with pytest.raises(Damaged):
        promptfile.read_head(own, ID)
    assert cached(engine(tmp_path), SYSTEM) == 0


WRITE = """
import sys, numpy as np
from pathlib import Path
from portable.engine.prompts.cache import PromptCache
cache = PromptCache(Path(sys.argv[1]), b"i" * 32, 256 << 20)
state = np.zeros(32 << 20, np.uint8)
for start in range(10_000):
    cache.write(list(range(start, start + 300)), state)
    cache.wait()
"""


def test_a_kill_in_the_midst_of_writing_leaves_nothing_that_loads_wrongly(tmp_path: Path) -> None:
    partial: list[Path] = []
    for delay in range(0, 50, 5):
        child = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)])
        while not set(tmp_path.glob(".*.partial")) - set(partial) and child.poll() is None:
            pass
        time.sleep(delay / 1000)
        child.send_signal(signal.SIGKILL)
        child.wait()
        partial += set(tmp_path.glob(".*.partial")) - set(partial)
        cache = PromptCache(tmp_path, ID, 1 << 30)
        for path in list(cache.states):
            assert cache.read(path) is not None
        cache.close()
    assert partial, "no kill came amid a file"
    for path in partial:
        os.utime(path, (0, 0))
    PromptCache(tmp_path, ID, 1 << 30).close()
    assert not list(tmp_path.glob(".*.partial"))
