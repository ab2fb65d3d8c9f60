"""The planner against the device's real free memory, while somebody else holds most of it."""

from __future__ import annotations

from contextlib import closing

import pytest
from target import Target

from portable.engine.llama import Llama
from portable.engine.offload.choice import MARGINS
from portable.engine.offload.device import MIB

pytestmark = pytest.mark.gpu

# What is left beside the plan's own margin.
_LEFT = [0, 40 * MIB, 80 * MIB, 400 * MIB]


def test_what_is_left_is_used_and_never_more(target: Target) -> None:
    spare, used = MARGINS[target.look().kind], []
    for left in _LEFT:
        with target.ballast(left + spare), closing(Llama(target.config())) as llama:
            used.append(llama.buffers.layers.get(target.name, 0))
            assert llama.buffers.weights.get(target.name, 0) <= left
    layers = sum(llama.buffers.layers.values())
    assert used == sorted(used)
    assert used[0] == 0 and 0 < used[1] < used[2] < layers and used[3] == layers


def test_a_model_that_was_given_back_leaves_room_for_the_next(target: Target) -> None:
    with target.ballast(400 * MIB + MARGINS[target.look().kind]):
        for _ in range(3):
            with closing(Llama(target.config())) as llama:
                assert set(llama.buffers.layers) == {target.name}
