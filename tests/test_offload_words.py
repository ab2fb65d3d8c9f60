"""What a plan says, what it refuses, and what flags make of it: a model of 8 layers of 1 GiB."""

from __future__ import annotations

from dataclasses import replace

import pytest

from portable.engine.offload.device import GIB, MARGINS, MIB, Device
from portable.engine.offload.plan import Plan, plan, step_down
from portable.engine.offload.shape import Layer, Shape
from portable.engine.offload.slots import auto_slots
from portable.engine.offload.wish import Wish
from portable.errors import NotEnoughMemory, UsageError

DENSE = Shape(
    "made-up",
    (Layer(GIB, cache=4096, largest=300 * MIB),) * 8,
    input=GIB // 4,
    output=GIB // 4,
    tied=GIB // 4,
    logits=32000,
    width=2048,
    trained_context=131072,
)
EXPERTS = replace(DENSE, layers=(Layer(GIB, GIB * 9 // 10, 4096, largest=300 * MIB),) * 8)


def gpu(name: str, free: float, kind: str = "gpu") -> Device:
    """`free` GiB beside the margin."""
    size = int(free * GIB) + MARGINS[kind]  # type: ignore[index]
    return Device(name, "made up", size, 2 * size, kind)  # type: ignore[arg-type]


def planned(*devices: Device, host: float = 16, shape: Shape = DENSE, **wish: object) -> Plan:
    return plan(shape, [*devices, gpu("CPU", host, "cpu")], Wish(**wish), unused="no GPU here")  # type: ignore[arg-type]


def test_all_layers_where_they_have_room() -> None:
    found = planned(gpu("CUDA0", 12))
    assert (found.gpu_layers, found.devices, found.tensor_split) == (9, ("CUDA0",), (9.0,))
    assert found.reason == "CUDA0 has room for all layers"
    # What stays: the embeddings, and what they are looked up in.
    assert GIB // 4 < found.shares[-1].total < GIB // 2


def test_some_layers_where_they_do_not() -> None:
    found = planned(gpu("CUDA0", 4))
    assert found.gpu_layers == 4 and found.shares[-1].layers == 5
    assert found.reason == "CUDA0 has room for no more"
    assert planned(gpu("CUDA0", 0.1)).reason == "CPU: CUDA0 has no room for a layer"
    assert planned().reason == "no GPU here"
    assert planned(gpu("CUDA0", 12), gpu_layers=0).reason == "CPU, as asked by --gpu-layers 0"


def test_every_number_of_layers_is_found_at_the_byte_that_it_needs() -> None:
    whole = planned(gpu("CUDA0", 12))
    for layers in range(3, 10):  # with fewer the KV cache makes room for one more
        shares = planned(gpu("CUDA0", 12), gpu_layers=layers).shares
        room = replace(gpu("CUDA0", 0), free=shares[0].total + MARGINS["gpu"])
        assert planned(room).gpu_layers == layers
        assert planned(replace(room, free=room.free - 1)).gpu_layers == layers - 1
    host = replace(gpu("CPU", 0, "cpu"), free=whole.shares[-1].total + MARGINS["cpu"])
    wish = Wish(context=whole.context)
    assert plan(DENSE, [gpu("CUDA0", 12), host], wish).gpu_layers == 9
    with pytest.raises(NotEnoughMemory):
        plan(DENSE, [gpu("CUDA0", 12), replace(host, free=host.free - 1)], wish)
    assert (MARGINS["gpu"], MARGINS["cpu"]) == (512 * MIB, 256 * MIB)


def test_shares_that_were_asked_for_and_have_no_room_are_refused() -> None:
    both = gpu("CUDA0", 6), gpu("CUDA1", 6)
    assert planned(*both, tensor_split=(1, 2), gpu_layers="all").tensor_split == (3.0, 6.0)
    with pytest.raises(NotEnoughMemory):
        planned(*both, tensor_split=(1, 8), gpu_layers="all")


def test_each_text_has_a_state_and_contexts_apart_are_each_whole() -> None:
    recurrent = replace(DENSE, layers=(Layer(GIB, state=MIB),) * 8)
    one, four = (planned(shape=recurrent, slots=n).shares[-1].cache for n in (1, 4))
    assert four - one == 3 * 8 * MIB
    one, four = (planned(slots=n, apart=True, context=1000).shares[-1].cache for n in (1, 4))
    assert four == 4 * one


def test_one_device_is_enough_or_all_are_filled_alike() -> None:
    assert planned(gpu("CUDA0", 20), gpu("CUDA1", 12)).devices == ("CUDA0",)
    both = planned(gpu("CUDA0", 6), gpu("CUDA1", 7))
    assert both.tensor_split == (4.0, 5.0)
    assert both.reason == "CUDA0, CUDA1 have room for all layers"
    assert planned(gpu("CUDA0", 20), gpu("CUDA1", 12), main_gpu=1).devices == ("CUDA1",)
    assert planned(gpu("CUDA0", 20), gpu("CUDA1", 12), devices=("cuda1",)).devices == ("CUDA1",)
    asked = planned(gpu("CUDA0", 20), gpu("CUDA1", 12), tensor_split=(2, 1))
    assert asked.tensor_split == (6.0, 3.0)


def test_experts_stay_before_layers_do() -> None:
    found = planned(gpu("CUDA0", 5), shape=EXPERTS)
    assert found.gpu_layers == 9 and found.experts_on_host == 5
    assert found.reason == "CUDA0 has room for all layers; the experts of 5 layers stay on the CPU"
    assert planned(gpu("CUDA0", 5), shape=EXPERTS, cpu_moe="all").experts_on_host == 8
    assert planned(gpu("CUDA0", 12), shape=EXPERTS, cpu_moe=2).experts_on_host == 2


def test_a_cache_beside_which_no_layer_has_room_stays_on_the_host() -> None:
    shape = replace(DENSE, layers=(Layer(GIB, cache=1 << 20, largest=MIB),) * 8)
    found = planned(gpu("CUDA0", 3.5), host=40, shape=shape, context=4096)
    assert found.cache_on_host and found.gpu_layers > 1 and not found.shares[0].cache
    assert found.reason.endswith("; the context stays on the CPU")


def test_an_integrated_gpu_has_the_memory_of_the_host() -> None:
    assert planned(gpu("iGPU", 16, "igpu"), host=10).gpu_layers == 9
    with pytest.raises(NotEnoughMemory):
        planned(gpu("iGPU", 16, "igpu"), host=8)
    assert planned(gpu("iGPU", 16, "igpu"), gpu("CUDA0", 4)).devices == ("CUDA0",)


def test_other_machines_are_for_what_this_one_cannot_hold() -> None:
    far = gpu("RPC0", 16, "rpc")
    assert planned(far).gpu_layers == 0
    assert (
        planned(far).reason
        == "CPU: it fits in this machine's memory without RPC0; --gpu-layers all uses it"
    )
    full = gpu("RPC0", 0.1, "rpc")
    assert planned(full, devices=("RPC0",)).reason == "CPU: RPC0 has no room for a layer"
    assert planned(full, gpu("CUDA0", 0.1)).reason == "CPU: CUDA0 has no room for a layer"
    few = planned(far, host=6)
    assert few.reason == "what has no room here is on RPC0"
    assert planned(far, gpu_layers=3).reason == "as asked by --gpu-layers 3"
    assert few.devices == ("RPC0",) and few.shares[-1].total <= 6 * GIB < few.shares[-1].total + GIB
    assert planned(far, gpu_layers="all").devices == ("RPC0",)
    assert planned(far, devices=("RPC0",)).gpu_layers == 9
    both = planned(far, gpu("CUDA0", 4), gpu_layers="all")
    assert both.devices == ("RPC0", "CUDA0"), (
        "this machine's GPU takes the last layers, and all it can"
    )
    assert both.tensor_split == (4.0, 5.0)


def test_a_context_is_made_smaller_only_if_nobody_asked_for_it() -> None:
    shape = replace(DENSE, layers=(Layer(GIB, cache=65536, largest=MIB),) * 8)  # 0.5 MiB a token
    assert planned(host=13, shape=shape).context == 8192
    shorter = planned(host=11, shape=shape)
    assert (shorter.context, shorter.kv_type) == (4096, "f16")
    assert shorter.reason == "no GPU here; a context of 4096 tokens, for more has no room"
    smaller = planned(host=10, shape=shape)
    assert (smaller.context, smaller.kv_type) == (4096, "q8_0")
    assert "a KV cache of q8_0, for f16 has no room" in smaller.reason
    assert planned(host=9.3, shape=shape).context == 2048
    kept = planned(host=11, shape=shape, context=8192)
    assert (kept.context, kept.kv_type) == (8192, "q8_0")
    with pytest.raises(NotEnoughMemory, match="of memory") as refused:
        planned(host=11, shape=shape, context=16384)
    assert refused.value.hint == "try --context 4096"


def test_what_fits_instead_is_named() -> None:
    host = gpu("CPU", 5, "cpu")
    with pytest.raises(
        NotEnoughMemory, match=r"the model needs 8\.\d GiB.*8 MiB context.*5\.0 GiB of this"
    ) as refused:
        plan(replace(DENSE, parameters=int(7.4 * GIB)), [host], Wish())  # as Q8_0 has it
    assert refused.value.hint == "--quant Q4_K_M would fit, which takes about 4.5 GiB"
    with pytest.raises(NotEnoughMemory) as layers:
        planned(gpu("CUDA0", 4), gpu_layers=7)
    assert layers.value.hint == "4 layers fit: leave --gpu-layers out, or say 4"
    with pytest.raises(NotEnoughMemory) as nothing:
        planned(host=1)
    assert "smaller --quant" in nothing.value.hint


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"devices": ("CUDA7",)}, "CUDA7 is not there"),
        ({"main_gpu": 2}, "--main-gpu 2 is not there"),
        ({"tensor_split": (1.0, 1.0, 1.0)}, "3 shares for 2 devices"),
    ],
)
def test_devices_that_are_not_there(wish: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        planned(gpu("CUDA0", 4), gpu("CUDA1", 4), **wish)


def test_steps_down_are_told() -> None:
    devices, wish, said = [gpu("CUDA0", 4), gpu("CPU", 16, "cpu")], Wish(), []
    found = plan(DENSE, devices, wish)
    while step := step_down(DENSE, wish, found):
        wish, words = step
        said.append(words)
        found = plan(DENSE, devices, wish)
    assert said[0] == "at most 2.8 GiB on CUDA0"
    assert said[-5:] == [
        "a KV cache of q8_0",
        *(f"a context of {n}" for n in (4096, 2048, 1024, 512)),
    ]
    assert found.gpu_layers == 0 and found.context == 512
    last = Wish(context=8192, kv_type="f16")
    assert step_down(DENSE, last, plan(DENSE, devices[1:], last)) is None


@pytest.mark.parametrize(
    ("wish", "free", "count", "why"),
    [
        (Wish(), GIB, 16, "sharing 8192 tokens"),
        (Wish(1 << 20), GIB, 32, "sharing"),
        (Wish(100), 0, 1, "sharing 100"),
        (Wish(apart=True), 8 * GIB, 4, "8192 tokens each, 0.25 GiB for each of 8.0 GiB free"),
        (Wish(apart=True), MIB, 1, "each"),
        (Wish(512, apart=True), 1 << 40, 32, "each"),
    ],
)
def test_slots_that_nobody_named(wish: Wish, free: int, count: int, why: str) -> None:
    found, reason = auto_slots(DENSE, wish, free)
    assert found == count and why in reason and f"auto: {count}," in reason


def test_slots_of_a_model_with_a_state() -> None:
    shape = replace(DENSE, layers=(Layer(GIB, state=4 * MIB),) * 8)
    assert auto_slots(shape, Wish(), GIB)[0] == 4
