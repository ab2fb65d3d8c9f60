"""What a person sees of a long piece of work, on a terminal and in a log."""

from __future__ import annotations

import io
import json

import pytest

from portable.progress import Lines, Objects, progress, size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(events: list[tuple[float, int]], total: int) -> list[str]:
    """What is printed when `(seconds, bytes)` are reported."""
    out, clock = io.StringIO(), Clock()
    report = Lines(out, clock)
    for clock.now, done in events:
        report("downloading", done, total, "model.safetensors")
    return out.getvalue().splitlines()


def test_a_line_every_five_seconds_and_at_the_end() -> None:
    shown = lines([(t / 10, t * 10**6) for t in range(121)], 120 * 10**6)
    assert len(shown) == 3
    assert shown[0] == (
        "downloading model.safetensors: 50.0 MB of 120.0 MB (41 %), 10.0 MB/s, 7 s left"
    )
    assert shown[-1] == "downloading: 120.0 MB of 120.0 MB (100 %), 10.0 MB/s, done in 12 s"


def test_the_end_is_said_once() -> None:
    assert len(lines([(0, 0), (1, 10), (1.1, 10), (1.2, 10)], 10)) == 1


def test_it_never_goes_back() -> None:
    shown = lines([(0, 0), (1, 800), (6, 100)], 1000)
    assert "800 B of" in shown[0]


def test_unknown_total_shows_no_percentage() -> None:
    assert "%" not in lines([(0, 0), (6, 500)], 0)[0]


def test_each_phase_has_its_end() -> None:
    out, clock = io.StringIO(), Clock()
    report = Lines(out, clock)
    report("downloading", 5, 5, "")
    report("converting", 5, 5, "")
    assert [line.partition(":")[0] for line in out.getvalue().splitlines()] == [
        "downloading",
        "converting",
    ]


def test_a_terminal_gets_a_bar() -> None:
    out = Terminal()
    with progress(stream=out) as report:
        report("downloading", 1000, 4000, "[b]odd[/b].gguf")
        report("downloading", 4000, 4000, "")
    assert "downloading" in out.getvalue() and "4.0/4.0 kB" in out.getvalue()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_quiet_is_silent(stream: io.StringIO) -> None:
    with progress(quiet=True, stream=stream) as report:
        report("downloading", 1, 1, "x")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("count", "text"), [(999, "999 B"), (1e6, "1.0 MB"), (4e12, "4000.0 GB")])
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_programs_get_one_object_a_line() -> None:
    now, stream = [0.0], io.StringIO()
    report = Objects(stream, clock=lambda: now[0])
    for second, done in ((0.0, 10), (0.5, 30), (1.0, 20), (1.1, 90), (1.2, 100), (1.3, 100)):
        now[0] = second
        report("downloading", done, 100, "模型.bin")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["done"] for event in events] == [10, 30, 100]
    assert events[0] == {"phase": "downloading", "file": "模型.bin", "done": 10, "total": 100}
