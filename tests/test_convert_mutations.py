"""Two thousand damaged inputs: each ends in one line of error or in a file that llama.cpp loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mutation_cases import build

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")

WORKER = Path(__file__).with_name("mutation_worker.py")
SEED = int(os.environ.get("MUTATION_SEED", "1"))
COUNT = int(os.environ.get("MUTATION_COUNT", "2200"))
PROCESSES = 2
PEAK = 400 << 20  # bytes; a process that did nothing has 100 MB, and llama.cpp loads files in it


def run(root: Path, first: int, count: int) -> list[dict[str, Any]]:
    """What came of each number. One that ended its process is a line of its own, "died"."""
    found: list[dict[str, Any]] = []
    while count > 0:
        command = [sys.executable, str(WORKER), *map(str, (root, SEED, first, count))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        found += [json.loads(line) for line in lines if line.startswith("{")]
        if done.returncode == 0:
            return [*found, {"result": "end", "peak": int(lines[-1].split()[1]), "bad": []}]
        begun = [int(line) for line in lines if line.isdecimal()]
        number = begun[-1] if begun else first
        words = done.stderr.strip().splitlines()[-3:]
        found.append({"result": "died", "bad": [f"number {number}: {done.returncode}, {words}"]})
        first, count = number + 1, first + count - number - 1
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("mutations")
    build(root)
    share = COUNT // PROCESSES
    with ThreadPoolExecutor(PROCESSES) as pool:
        parts = pool.map(lambda i: run(root, i * share, share), range(PROCESSES))
        return [outcome for part in parts for outcome in part]


@pytest.mark.timeout(300)
def test_none_ends_badly(outcomes: list[dict[str, Any]]) -> None:
    bad = [f"{o.get('what')}: {o['bad']}" for o in outcomes if o["bad"]]
    assert not bad, f"{len(bad)} of {len(outcomes)}\n" + "\n".join(bad[:10])


def test_there_were_enough_of_each_kind(outcomes: list[dict[str, Any]]) -> None:
    results = Counter(outcome["result"] for outcome in outcomes)
    assert sum(results.values()) >= COUNT
    assert min(results[kind] for kind in ("converted", "CheckpointError")) > COUNT / 5
    assert {"UsageError", "UnsupportedModel", "ModelFileError", "ran"} < results.keys()


def test_memory_stays_bounded(outcomes: list[dict[str, Any]]) -> None:
    peaks = [outcome["peak"] for outcome in outcomes if outcome["result"] == "end"]
    assert peaks and max(peaks) < PEAK
