"""Which cores are for the model, who else uses them, and what a battery changes."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from portable.engine import cores
from portable.engine.cores import Cores, OtherPrograms, find_cores, settle

CPU = "sys/devices/system/cpu"


def machine(root: Path, siblings: list[str], **measures: list[int]) -> Path:
    """A Linux system's files: each logical core's siblings and measures."""
    for number, together in enumerate(siblings):
        folder = root / CPU / f"cpu{number}"
        write(folder / "topology/thread_siblings_list", together)
        for name, values in measures.items():
            write(folder / name.replace("__", "/"), str(values[number]))
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Logical cores that this process may run on."""
    numbers = set(range(8))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: numbers, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    return numbers


PAIRS = ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"]


def test_one_thread_a_physical_core(tmp_path: Path, allowed: set[int]) -> None:
    assert find_cores(machine(tmp_path, PAIRS)) == Cores(frozenset(range(8)), 6)


@pytest.mark.parametrize("measure", ["cpu_capacity", "cpufreq__cpuinfo_max_freq"])
def test_slower_cores_are_left_out(tmp_path: Path, allowed: set[int], measure: str) -> None:
    values = [1000, 1000, 950, 950, 760, 760, 640, 640]
    found = find_cores(machine(tmp_path, PAIRS, **{measure: values}))
    assert found == Cores(frozenset({0, 1, 2, 3}), 2, pinned=True)


def test_what_intel_calls_its_fast_cores(tmp_path: Path, allowed: set[int]) -> None:
    write(tmp_path / "sys/devices/cpu_core/cpus", "0-1,4")
    assert find_cores(machine(tmp_path, PAIRS)) == Cores(frozenset({0, 1, 4}), 2, pinned=True)


def test_only_slow_cores_are_allowed(tmp_path: Path, allowed: set[int]) -> None:
    write(tmp_path / "sys/devices/cpu_core/cpus", "0-3")
    allowed -= {0, 1, 2, 3}
    assert find_cores(machine(tmp_path, PAIRS)) == Cores(frozenset({4, 5, 6, 7}), 4)


@pytest.mark.parametrize(
    ("limits", "threads"),
    [
        ({"cpu.max": "max 100000"}, 6),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "400000 100000", "app/cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "300000 100000", "app/cpu.max": "max 100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({"cpu.max": "nonsense"}, 6),
    ],
)
def test_a_container_grants_so_many(
    tmp_path: Path, allowed: set[int], limits: dict[str, str], threads: int
) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/app")
    for name, text in limits.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert find_cores(machine(tmp_path, PAIRS)).threads == threads


def test_a_system_that_says_nothing(tmp_path: Path, allowed: set[int]) -> None:
    found = find_cores(tmp_path)
    assert found.logical == set(range(8)) and 1 <= found.threads <= 8 and not found.pinned


def test_this_machine() -> None:
    assert 1 <= find_cores().threads <= (os.cpu_count() or 1)


@pytest.mark.parametrize("named", [0, 3])
def test_threads_are_kept_on_the_fast_cores_unless_somebody_named_their_number(
    monkeypatch: pytest.MonkeyPatch, named: int
) -> None:
    pinned: list[frozenset[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, ids: pinned.append(ids), raising=False)
    fast = Cores(frozenset({0, 1}), 2, pinned=True)
    assert settle(fast, named, eco=False) == (named or 2, "")
    assert pinned == ([] if named else [fast.logical])


@pytest.mark.parametrize(
    ("battery", "named", "threads", "said"),
    [
        (SimpleNamespace(power_plugged=True, percent=80), 0, 4, "on mains: --eco changes nothing"),
        (
            SimpleNamespace(power_plugged=False, percent=63.4),
            0,
            2,
            "on battery (63 %): 2 of 4 threads, low priority",
        ),
        (None, 0, 2, "no battery is known here: 2 of 4 threads, low priority"),
        (None, 3, 3, "no battery is known here: 3 of 4 threads, low priority"),
    ],
)
def test_eco(
    monkeypatch: pytest.MonkeyPatch,
    battery: SimpleNamespace | None,
    named: int,
    threads: int,
    said: str,
) -> None:
    nice: list[int] = []
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    monkeypatch.setattr(psutil.Process, "nice", lambda _, value: nice.append(value))
    assert settle(Cores(frozenset(range(4)), 4), named, eco=True) == (threads, said)
    assert bool(nice) == ("low priority" in said)


def _burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_another_program_is_seen_and_this_one_is_not() -> None:
    others = OtherPrograms(find_cores().logical)
    others(time.perf_counter())
    process = multiprocessing.get_context("spawn").Process(target=_burn, args=(30,))
    process.start()
    try:
        time.sleep(1.0)  # it starts
        before = time.process_time(), process.pid and psutil.Process(process.pid).cpu_times().user
        at = time.perf_counter()
        others(at)
        assert others(at + 0.01) is None
        _burn(0.5)
        later = time.perf_counter()
        seen = others(later)
        assert seen is not None and process.pid
        # Whatever else this machine does is seen, too; what this process burnt is not.
        theirs = (psutil.Process(process.pid).cpu_times().user - before[1]) / (later - at)
        mine = (time.process_time() - before[0]) / (later - at)
        assert seen > 0.7 * theirs - 0.1
        assert seen + mine < (psutil.cpu_count() or 1) + 0.3
    finally:
        process.kill()
        process.join()


def test_eco_is_said_in_the_line_about_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import model_file

    from portable.engine.config import EngineConfig
    from portable.engine.llama import Llama

    monkeypatch.setattr(psutil.Process, "nice", lambda *_: None)
    monkeypatch.setattr(cores, "_power", lambda: "on battery (50 %)")
    llama = Llama(EngineConfig(model_file(), context=64, slots=1, threads=1, eco=True))
    try:
        llama.use_threads(2)
        llama.use_threads(1)
        assert llama.info().placement.endswith(" threads, low priority")
        assert ", on battery (50 %): 1 of " in llama.info().placement
    finally:
        llama.close()
