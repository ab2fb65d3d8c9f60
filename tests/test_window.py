"""Below the hub: the window over a file's bytes as they pass, and the digest that can be kept."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Generator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert import sha256, window
from convert.window import Span, Window

DATA = bytes(range(256)) * 40


def arriving(data: bytes, size: int, start: int = 0) -> Generator[bytes]:
    for at in range(start, len(data), size):
        yield data[at : at + size]


def made(reads: Sequence[Span], size: int = 700, **options: object) -> Window:
    blocks = arriving(DATA, size)
    return Window(blocks, 0, sha256.sha256(), reads, **options)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 3000)), max_size=12),
    st.integers(1, 5000),
)
@settings(max_examples=60, deadline=None)
def test_any_planned_reads_give_the_files_bytes_and_its_digest(
    wanted: list[tuple[int, int]], size: int
) -> None:
    reads = [(start, min(start + count, len(DATA))) for start, count in wanted]
    view = made(reads, size)
    for start, stop in reads:
        assert view.read(start, stop - start).tobytes() == DATA[start:stop]
    assert view.finish(lambda _: None) == hashlib.sha256(DATA).hexdigest()
    view.close()


def test_only_what_is_still_needed_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "AHEAD", 1000)
    reads = [(0, 100), (4000, 4100), (3000, 3100), (9000, 9100)]
    view = made(reads, 100)
    most, furthest = [], []
    for start, stop in reads:
        view.read(start, stop - start)
        time.sleep(0.02)  # to receive more than it may
        most.append(sum(len(block) for _, block in view._held))
        furthest.append(view.end)
    view.close()
    assert max(most) <= 1100 and most[1] >= 1000
    # A block more than AHEAD behind what the next reads begin with.
    assert furthest[:3] == [4000, 4100, 10000]


def test_an_error_of_the_network_reaches_the_reader_and_no_thread_is_left() -> None:
    def broken() -> Generator[bytes]:
        yield DATA[:1000]
        raise OSError("gone")

    before = threading.active_count()
    view = Window(broken(), 0, sha256.sha256(), [(0, 900), (900, 2000)])
    assert view.read(0, 900).tobytes() == DATA[:900]
    with pytest.raises(OSError, match="gone"):
        view.read(900, 1100)
    view.close()
    assert threading.active_count() == before


def test_closing_ends_a_receiver_that_is_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "AHEAD", 1000)
    before = threading.active_count()
    made([(0, 10), (5000, 5010)]).close()
    assert threading.active_count() == before


@given(st.binary(max_size=2000), st.binary(max_size=500), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_a_kept_digest_goes_on_as_if_nothing_had_been(first: bytes, rest: bytes, size: int) -> None:
    whole = first + rest
    position = len(first) // sha256.BLOCK * sha256.BLOCK
    digest = sha256.sha256()
    for block in arriving(whole[:position], size):
        digest.update(block)
    later = sha256.sha256(position, sha256.saved(digest))
    for block in arriving(whole, size, position):
        later.update(block)
    assert later.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert later.hexdigest() == later.hexdigest()


def test_this_machine_can_keep_a_digest_and_beyond_four_gigabytes() -> None:
    """The count of bits, which ends the digest, takes two words."""
    if sha256.library() is None:
        pytest.skip("hashlib is not linked with OpenSSL here")
    digest = sha256.sha256(5 << 30, "00" * 32)
    digest.update(b"end")
    low, high = digest._context.low, digest._context.high  # type: ignore[attr-defined]
    assert (high << 32 | low) == ((5 << 30) + 3) * 8


def test_without_openssl_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sha256, "library", lambda: None)
    digest = sha256.sha256()
    digest.update(b"abc")
    assert digest.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert sha256.saved(digest) is None
