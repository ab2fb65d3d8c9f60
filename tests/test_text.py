"""Bytes to text: no half characters, no part of a stop string, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable.engine.text import TextStream, overlap

HARD = [
    "你好，世界。今天天气很好",
    "👨‍👩‍👧‍👦 🏳️‍🌈 😶‍🌫️ 🇨🇳",
    "Z̸͎͐a̶̝̐l̸̰̓g̷̩̓o",
    "نص عربي हिन्दी ไทย",
    "\ufffd real replacement",
    "tab\tnew\nline\r\n",
]


def stream(data: bytes, sizes: list[int], stop: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    out, deltas, at = TextStream(stop), [], 0
    for size in [*sizes, len(data)]:
        deltas.append(out.push(data[at : at + size]))
        at += size
    deltas.append(out.flush())
    return "".join(deltas), deltas


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_characters_come_whole(hard: str, size: int) -> None:
    whole, deltas = stream(hard.encode(), [size] * 200)
    assert whole == hard
    assert all(delta in hard for delta in deltas)


@given(st.binary(max_size=60), st.lists(st.integers(1, 5), max_size=30))
def test_any_bytes_give_the_text_that_decoding_them_at_once_gives(
    data: bytes, sizes: list[int]
) -> None:
    assert stream(data, sizes)[0] == data.decode("utf-8", "replace")


@given(
    st.text("abc你", max_size=40),
    st.lists(st.text("abc你", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(1, 5), max_size=40),
)
def test_the_text_ends_before_the_first_stop_string(
    said: str, stops: list[str], sizes: list[int]
) -> None:
    """However the bytes are cut, the first stop string seen ends it and nothing of it shows."""
    whole, _ = stream(said.encode(), sizes, tuple(stops))
    assert said.startswith(whole)
    assert not any(stop in whole for stop in stops)
    if not any(stop in said for stop in stops):
        assert whole == said
    else:
        assert any(said[len(whole) :].startswith(stop) for stop in stops)


def test_what_cannot_begin_a_stop_string_is_not_held_back() -> None:
    out = TextStream(("STOP",))
    assert out.push(b"hello ST") == "hello "
    assert out.push(b"AY") == "STAY"
    assert not out.stopped


def test_nothing_comes_after_a_stop_string() -> None:
    out = TextStream(("end",))
    assert out.push(b"the end of it") == "the "
    assert out.stopped and out.stop == "end"
    assert out.push(b"more") == "" == out.flush()


def test_a_cut_answer_leaves_out_its_half_character() -> None:
    for cut, end in ((True, ""), (False, "\ufffd")):
        out = TextStream()
        assert out.push("好".encode() + "好".encode()[:2]) == "好"
        assert out.flush(cut=cut) == end


@pytest.mark.parametrize(("text", "stop", "n"), [("ab", "bc", 1), ("ab", "ab", 0), ("x", "yy", 0)])
def test_overlap(text: str, stop: str, n: int) -> None:
    assert overlap(text, stop) == n
