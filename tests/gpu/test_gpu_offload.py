"""What is asked lies where it is said to lie, at every split, and is given back."""

from __future__ import annotations

from contextlib import closing

import pytest
from target import Target

from portable.engine.llama import Llama
from portable.engine.offload.device import MIB

pytestmark = pytest.mark.gpu

# Drivers round allocations up, and keep some memory of a process that has used them.
_SLACK = 64 * MIB


@pytest.fixture(scope="module")
def layers(target: Target) -> int:
    """The model's layers with the output; loading it once also pays what a driver takes once."""
    with closing(Llama(target.config(gpu_layers="all"))) as llama:
        return sum(llama.buffers.layers.values())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_so_many_layers_are_there_as_were_asked(target: Target, layers: int, share: float) -> None:
    asked = round(share * layers)
    before = target.look().free
    with closing(Llama(target.config(gpu_layers=asked))) as llama:
        buffers, name = llama.buffers, target.name
        assert buffers.layers.get(name, 0) == asked
        assert sum(buffers.layers.values()) == layers
        told = sum(kind.get(name, 0) for kind in (buffers.weights, buffers.cache, buffers.compute))
        assert bool(told) == bool(asked)
        if target.says_what_is_taken():
            assert abs(before - target.look().free - told) < _SLACK + told / 10
    assert before - target.look().free < _SLACK


def test_more_layers_take_more_of_the_device_and_less_of_the_host(target: Target) -> None:
    taken = []
    for asked in (5, 10, 20):
        with closing(Llama(target.config(gpu_layers=asked))) as llama:
            taken.append(llama.buffers.weights[target.name])
    assert taken == sorted(set(taken))


def test_without_the_device_nothing_of_it_is_taken(target: Target, layers: int) -> None:
    with closing(Llama(target.config(devices=()))) as llama:
        assert llama.buffers.layers == {"CPU": layers}
        assert target.name not in llama.buffers.weights
