"""Modules in processes of their own: what they answer, and what is said when they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portable.engine.death import Cause
from portable.engine.isolated import ask


def test_files_where_the_user_stands_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert ask("portable.engine.timer", [], list, seconds=60) == []


@pytest.mark.parametrize(
    "program, seconds, why",
    [
        ("import time; time.sleep(60)", 1, "it does not come back within 1 s"),
        ("import os; os._exit(5)", 60, "its process ended with exit code 5"),
        ("print('no JSON')", 60, "its process ended with exit code 0"),
        ("raise ValueError('so')", 60, "its process ended with exit code 1: ValueError: so"),
    ],
)
def test_why_there_is_no_answer(tmp_path: Path, program: str, seconds: int, why: str) -> None:
    (tmp_path / "broken.py").write_text(program)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert ask("broken", None, list, seconds=seconds, env=env) == Cause(why)
