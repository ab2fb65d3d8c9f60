"""Threads that make room for other programs: on simulated machines, and in the engine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest
from fakes import FakeBackend, ask, make_engine, run, text
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Server, server

from portable.engine.threads import Threads

__all__ = ["server"]
Busy = Callable[[float], float]


class Laptop:
    """`cores` cores, of which other programs want `busy(t)`; tells what a step takes there.

    A thread that gets no core of its own holds up all: what was measured on two cores is 18.5 ms a
    step with both, 27 with one; beside a busy loop 60 and 29.
    """

    def __init__(self, cores: int, busy: Busy, noise: float = 0.05, work: float = 0.037) -> None:
        self.cores, self.busy, self.noise, self.work = cores, busy, noise, work
        self.now = 0.0
        self.used = 0.0  # core seconds of other programs
        self.told = (0.0, 0.0)
        self.luck = random.Random(1)
        self.steps: list[tuple[float, int, float]] = []

    def seconds(self, threads: int, busy: float) -> float:
        alone = self.work / threads**0.9 * (0.73 if threads == 1 else 1.0)
        crowded = min(1.0, max(0.0, threads + busy - self.cores))
        if threads == 1:
            return alone * (1 + 0.07 * min(busy, 1.0) + 0.6 * crowded)
        return alone * (1 + 2.2 * crowded**1.3)

    def others(self, at: float) -> float | None:
        then, used = self.told
        if at - then < 0.25:
            return None
        self.told = (at, self.used)
        return (self.used - used) / (at - then)

    def run(self, until: float, threads: Threads, size: int = 1, depth: int = 0) -> float:
        """Steps until a time; returns tokens a second."""
        begin, count = self.now, 0
        while self.now < until:
            step = SimpleNamespace(size=size, reading=0, depth=depth + count)
            chosen = threads.choose(step, self.now)
            busy = self.busy(self.now)
            seconds = self.seconds(chosen, busy) * self.luck.uniform(1, 1 + self.noise)
            # Beside waiting threads another program gets more than its fair share.
            self.used += seconds * min(busy, self.cores - 0.6 * min(chosen, self.cores - 0.5))
            self.now += seconds
            threads.learn(step, seconds, self.now)
            self.steps.append((self.now, chosen, seconds))
            count += 1
        return count / (self.now - begin)

    def controller(self) -> Threads:
        return Threads(self.cores, self.cores, self.others)


def test_a_quiet_machine_is_left_alone() -> None:
    laptop = Laptop(2, lambda _: 0.0, noise=0.5)
    laptop.run(30, laptop.controller())
    assert {threads for _, threads, _ in laptop.steps} == {2}


@pytest.mark.parametrize("work", [1.0, 10.0, 40.0])
def test_comparing_steps_of_seconds_takes_a_tenth_of_the_time(work: float) -> None:
    laptop = Laptop(2, lambda _: 1.0, work=work)
    rate = laptop.run(150 * work, laptop.controller())
    assert rate > 0.9 / (laptop.seconds(1, 1.0) * 1.025)


@pytest.mark.parametrize("busy", [1.0, 1.5, 2.0])
def test_a_busy_machine_costs_little_more_than_it_must(busy: float) -> None:
    laptop = Laptop(2, lambda _: busy)
    laptop.run(4, threads := laptop.controller())
    best = 1 / min(laptop.seconds(n, busy) for n in (1, 2))
    assert laptop.run(60, threads) > 0.93 * best
    quiet = 1 / laptop.seconds(2, 0)
    assert busy > 1 or laptop.run(90, threads) > 0.55 * quiet


@pytest.mark.parametrize("cores", [2, 4, 8])
def test_it_follows_within_two_seconds_and_comes_back(cores: int) -> None:
    laptop = Laptop(cores, lambda t: 1.0 if 10 <= t < 20 else 0.0, noise=0.1)
    laptop.run(30, laptop.controller())
    before, during, after = (
        [threads for t, threads, _ in laptop.steps if since + 2 < t < to]
        for since, to in ((0, 10), (10, 20), (20, 30))
    )
    assert set(before) == set(after) == {cores}
    assert sum(threads < cores for threads in during) > 0.9 * len(during)


def test_what_other_programs_use_without_harm_changes_little() -> None:
    """Half of the cores are second threads of the others: a busy one is no reason to step back."""
    laptop = Laptop(8, lambda _: 3.0)
    threads = Threads(4, 8, laptop.others)
    laptop.run(20, threads)
    assert {chosen for _, chosen, _ in laptop.steps} == {4}


def test_fewer_threads_are_kept_only_if_they_are_faster() -> None:
    """Something of low priority is busy and in nobody's way: all threads come back."""
    laptop = Laptop(2, lambda _: 0.5)
    laptop.seconds = lambda threads, busy: 0.02 if threads == 2 else 0.03  # type: ignore[method-assign]
    laptop.run(2, threads := laptop.controller())
    assert laptop.run(60, threads) > 0.97 / (0.02 * 1.025)


def test_a_collapse_is_tried_once_at_a_time() -> None:
    """All threads take a second a step where one takes 27 ms: one step is enough to see it."""
    laptop = Laptop(2, lambda _: 1.0)
    laptop.seconds = lambda threads, busy: 1.0 if threads == 2 else 0.027  # type: ignore[method-assign]
    laptop.run(60, laptop.controller())
    slow = [t for t, threads, _ in laptop.steps if threads == 2]
    assert len(slow) <= 4 and all(b - a > 20 for a, b in pairwise(slow[1:]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 5), st.floats(0, 3)), min_size=1, max_size=12))
def test_whatever_the_others_do_it_is_never_far_from_the_better_fixed_number(
    phases: list[tuple[float, float]],
) -> None:
    whole = sum(length for length, _ in phases)

    def busy(at: float) -> float:
        at %= whole
        for length, load in phases:
            if at < length:
                return load
            at -= length
        return 0.0

    free = Laptop(2, busy)
    rate = free.run(40, free.controller())
    fixed = [Laptop(2, busy) for _ in range(2)]
    rates = [laptop.run(40, Threads(n, 2)) for n, laptop in enumerate(fixed, 1)]
    assert rate > 0.8 * max(rates), phases
    assert {threads for _, threads, _ in free.steps} <= {1, 2}


@given(st.lists(st.tuples(st.integers(1, 600), st.booleans(), st.floats(0, 70)), max_size=200))
def test_any_steps_and_any_load_give_a_number_that_is_allowed(
    steps: list[tuple[int, bool, float]],
) -> None:
    loads = iter([load for _, _, load in steps])
    threads, now = Threads(6, 12, lambda _: next(loads)), 0.0
    for size, reading, load in steps:
        step = SimpleNamespace(size=size, reading=size if reading else 0, depth=size * 7)
        assert 1 <= threads.choose(step, now) <= 6
        now += 0.01 + load / 100
        threads.learn(step, 0.01 + load / 100, now)


def test_the_engine_takes_them_and_says_why() -> None:
    backend = FakeBackend()
    backend.token_seconds = 0.01
    engine = make_engine(backend)
    engine.threads = Threads(2, 2, lambda _: 1.0)
    ask(engine, "a", "hello there")
    assert text(run(engine)["a"]) == "HELLO THERE!"
    assert set(backend.threads) == {1}
    engine.threads = Threads(2, 2, lambda _: 0.5)
    ask(engine, "c", "hello there" * 20)
    run(engine)
    assert set(backend.threads) == {1, 2}, "compared after a second"
    engine.threads = Threads(2, 2, lambda _: 1.0)
    ask(engine, "b", "x")
    engine.step()
    engine.step()
    assert engine.threads.told == "1 of 2 threads: other programs keep 1.0 of 2 cores busy"


def test_a_number_that_was_named_stays() -> None:
    laptop = Laptop(2, lambda _: 1.0)
    laptop.run(5, threads := Threads(2, 2))
    assert {chosen for _, chosen, _ in laptop.steps} == {2} and not threads.told


def test_a_server_says_what_it_takes(server: Server) -> None:
    time.sleep(1.2)  # one beat
    assert server.chat(max_tokens=4).status_code == 200
    meta = server.meta()
    assert (meta["threads"], meta["threads_reason"]) == (1, "")


def test_a_part_of_a_core_is_compared_before_a_thread_is_given_up() -> None:
    load = [0.4]
    threads = Threads(2, 2, lambda _: load[0])
    step, now = SimpleNamespace(size=1, reading=0, depth=0), 0.0

    def chosen(seconds: dict[int, float]) -> int:
        nonlocal now
        count = threads.choose(step, now)
        now += seconds[count]
        threads.learn(step, seconds[count], now)
        return count

    steps = [chosen({1: 0.03, 2: 0.02}) for _ in range(200)]
    assert set(steps[:40]) == {2} and steps.count(1) < 20 and steps[-1] == 2
    load[0] = 1.0
    assert chosen({1: 0.03, 2: 0.2}) == 1
    load[0] = 0.3  # the loop has ended; a client's own work is left
    assert chosen({1: 0.03, 2: 0.02}) == 2
