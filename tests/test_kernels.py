"""ggml's kernels, timed one by one: each does what a step does, and answers in its own unit."""

from __future__ import annotations

import pytest

from portable.engine.kernels import Attention, Matrix, Operation, Request, Sum, Timed, time_kernels
from portable.errors import EngineError
from portable.tensortype import TYPES


def times(*operations: Operation) -> list[Timed]:
    (found,) = time_kernels([Request([*operations], threads=1)])
    assert len(found) == len(operations)
    return found


def matrix(name: str, vectors: int = 1) -> Matrix:
    kind = TYPES[name]
    return Matrix(kind.id, 1024, kind.row_bytes(1024), vectors)


def test_many_vectors_cost_more_than_one_but_less_than_so_many_times_it() -> None:
    one, many = times(matrix("Q8_0"), matrix("Q8_0", 64))
    assert one.seconds < many.seconds < 64 * one.seconds


def test_attention_costs_what_it_looks_back_at() -> None:
    near, far = times(Attention(4, 2, 64, 64, 512), Attention(4, 2, 64, 64, 8192))
    assert 4 * near.seconds < far.seconds


def test_every_type_a_cache_can_have_is_timed() -> None:
    for timed in times(*(Attention(4, 2, 64, 64, 256, type) for type in (1, 8, 2))):
        assert 0 < timed.seconds < 1


def test_small_operations_grow_with_their_rows() -> None:
    one, many = times(Sum(512), Sum(512, 4096))
    assert 0 < one.seconds < many.seconds


def test_only_weights_that_are_multiplied_otherwise_are_repacked() -> None:
    plain, asked = times(matrix("F32"), Sum(64))
    assert not plain.repacked and not asked.repacked


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineError, match="cannot be timed"):
        time_kernels([Request([matrix("F16")], device="CUDA7")])
