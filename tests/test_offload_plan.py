"""The planner against every way to lay layers out, for made-up devices and models."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from portable.engine.offload.device import GIB, MARGINS, MIB, Device
from portable.engine.offload.packing import Load
from portable.engine.offload.plan import LEAST_CONTEXT, Plan, plan, step_down
from portable.engine.offload.shape import Layer, Shape
from portable.engine.offload.wish import Wish
from portable.errors import NotEnoughMemory

SLOW = settings(max_examples=300, deadline=None)
sizes = st.integers(0, 900).map(lambda n: n * MIB)


@st.composite
def shapes(draw: st.DrawFn, experts: bool | None = None) -> Shape:
    layers = []
    mixed = draw(st.booleans()) if experts is None else experts
    for _ in range(draw(st.integers(1, 6))):
        weights = draw(st.integers(1, 400)) * MIB
        layers.append(
            Layer(
                weights,
                experts=int(weights * draw(st.sampled_from([0.5, 0.9]))) if mixed else 0,
                cache=draw(st.sampled_from([0, 4096, 65536])),
                state=draw(st.sampled_from([0, 0, MIB])),
                largest=weights // 3,
            )
        )
    tied = draw(st.booleans())
    embeddings = draw(st.integers(1, 200)) * MIB
    return Shape(
        "made-up",
        tuple(layers),
        input=embeddings,
        output=embeddings if tied else draw(sizes),
        tied=embeddings if tied else 0,
        logits=32000,
        width=1024,
        heads=8,
        attention=4096,
        feed_forward=4096,
        expert_width=512 if mixed else 0,
        experts_used=2 if mixed else 0,
        trained_context=draw(st.sampled_from([300, 2048, 8192, 131072])),
        quantizes_cache=draw(st.booleans()),
    )


@st.composite
def machines(draw: st.DrawFn, far: bool = True) -> list[Device]:
    """Up to three devices, and the host."""
    kinds = st.sampled_from(["gpu", "gpu", "igpu", *(["rpc"] if far else [])])
    found = []
    for n in range(draw(st.integers(0, 3))):
        free = draw(st.integers(0, 5000)) * MIB
        found.append(Device(f"GPU{n}", "made up", free, free + GIB, draw(kinds)))
    free = draw(st.integers(0, 8000)) * MIB
    return [*found, Device("CPU", "host", free, free + GIB, "cpu")]


wishes = st.builds(
    Wish,
    context=st.sampled_from([0, 0, 1000, 16384]),
    slots=st.integers(1, 4),
    step_tokens=st.sampled_from([64, 512]),
    apart=st.booleans(),
    kv_type=st.sampled_from(["auto", "auto", "f16", "q8_0"]),
    flash=st.booleans(),
    outputs=st.sampled_from([0, 4]),
    extra=st.sampled_from([0, 50 * MIB]),
)


def planned(shape: Shape, devices: list[Device], wish: Wish) -> Plan | None:
    try:
        return plan(shape, devices, wish)
    except NotEnoughMemory:
        return None


def load_of(shape: Shape, wish: Wish, found: Plan) -> Load:
    return Load(
        shape,
        wish,
        found.context,
        found.kv_type,
        experts_on_host=found.experts_on_host,
        cache_on_host=found.cache_on_host,
    )


def limits(devices: list[Device]) -> dict[str, int]:
    return {d.name: max(0, d.free - MARGINS[d.kind]) for d in devices}


def usable(devices: list[Device]) -> list[Device]:
    """An integrated GPU only where there is no other, and one of them."""
    gpus = [device for device in devices if device.kind == "gpu"]
    return gpus or [device for device in devices if device.kind == "igpu"][:1]


def every_way(load: Load, devices: list[Device], layers: int) -> bool:
    """Whether the last `layers` have room in any division among any of the devices, in order."""
    host, most, first = devices[-1], limits(devices), load.units - layers
    own = usable(devices)
    for count in range(1, len(own) + 1) if layers else [0]:
        for used in combinations(own, count):
            for cuts in combinations(range(first + 1, load.units), count - 1) if count else [()]:
                ends = [first, *cuts, load.units] if count else [first]
                shares = [
                    (device, load.share(device, start, end, load.moved(layers) if not n else 0))
                    for n, (device, (start, end)) in enumerate(zip(used, pairwise(ends)))
                ]
                shared = sum(s.total for d, s in shares if d.kind == "igpu")
                if all(s.total <= most[d.name] for d, s in shares) and (
                    load.host(host, layers, helped=bool(layers)).total + shared <= most["CPU"]
                ):
                    return True
    return False


def llama_split(split: tuple[float, ...], layers: int) -> list[int]:
    """Layers on each device, in the arithmetic of llama_model_base::load_tensors."""
    ends = np.cumsum(np.array(split, np.float32), dtype=np.float32)
    ends = ends / ends[-1]
    at = np.arange(layers, dtype=np.float32) / np.float32(layers)
    return np.bincount(np.searchsorted(ends, at, "right"), minlength=len(split)).tolist()


@SLOW
@given(shapes(), machines(), wishes)
def test_no_budget_is_exceeded_and_nothing_is_lost(
    shape: Shape, devices: list[Device], wish: Wish
) -> None:
    found = planned(shape, devices, wish)
    if found is None:
        return
    most, kinds = limits(devices), {d.name: d.kind for d in devices}
    assert all(share.total <= most[share.device] for share in found.shares)
    shared = [s.total for s in found.shares if kinds[s.device] in ("igpu", "cpu")]
    assert sum(shared) <= most["CPU"], "an integrated GPU's memory is the host's"
    assert found.shares[-1].device == "CPU"
    assert sum(s.layers for s in found.shares) == len(shape.layers) + 1
    assert sum(s.layers for s in found.shares[:-1]) == found.gpu_layers
    twice = shape.tied if found.gpu_layers else 0
    assert sum(s.weights for s in found.shares) == shape.size + wish.extra + twice
    assert sum(s.cache for s in found.shares) == sum(load_of(shape, wish, found).caches)
    assert plan(shape, devices, wish) == found, "the same again"


@SLOW
@given(shapes(), machines(far=False), wishes)
def test_no_layer_stays_on_the_host_that_has_room_elsewhere(
    shape: Shape, devices: list[Device], wish: Wish
) -> None:
    found = planned(shape, devices, wish)
    if found is None:
        short = wish.kv_type == "auto" and wish.flash and shape.quantizes_cache
        least = Load(
            shape,
            wish,
            wish.context or min(LEAST_CONTEXT, shape.trained_context),
            "q8_0" if short or wish.kv_type == "q8_0" else "f16",
        )
        for layers in range(least.units + 1):
            for experts in range(least.units):
                for on_host in (False, True):
                    way = replace(least, experts_on_host=experts, cache_on_host=on_host)
                    assert not every_way(way, devices, layers)
        return
    load = load_of(shape, wish, found)
    for layers in range(found.gpu_layers + 1, load.units + 1):
        assert not every_way(load, devices, layers)


@SLOW
@given(shapes(), machines(far=False), wishes, st.data())
def test_more_memory_is_never_worse(
    shape: Shape, devices: list[Device], wish: Wish, data: st.DataObject
) -> None:
    """First comes the context, then its type, then layers; and then experts beside them."""
    n = data.draw(st.integers(0, len(devices) - 1))
    more = data.draw(st.integers(1, 4000)) * MIB
    larger = [*devices]
    larger[n] = replace(devices[n], free=devices[n].free + more)
    before, after = planned(shape, devices, wish), planned(shape, larger, wish)
    if before is None:
        return
    assert after is not None
    rank = [(p.context, p.kv_type == "f16") for p in (before, after)]
    assert rank[1] >= rank[0]
    if rank[1] == rank[0] and before.cache_on_host == after.cache_on_host:
        assert after.gpu_layers >= before.gpu_layers
        if after.gpu_layers == before.gpu_layers == len(shape.layers) + 1:
            assert after.experts_on_host <= before.experts_on_host


@SLOW
@given(shapes(experts=True), machines(far=False), wishes)
def test_experts_leave_before_layers(shape: Shape, devices: list[Device], wish: Wish) -> None:
    found = planned(shape, devices, wish)
    if found and 0 < found.gpu_layers <= len(shape.layers) > found.experts_on_host:
        load = load_of(shape, wish, found)
        more = replace(load, experts_on_host=found.experts_on_host + 1)
        assert more.host(devices[-1], found.gpu_layers, helped=True).total > limits(devices)["CPU"]


@SLOW
@given(shapes(), machines(), wishes)
def test_what_was_asked_is_kept(shape: Shape, devices: list[Device], wish: Wish) -> None:
    found = planned(shape, devices, wish)
    if found is None:
        return
    longest = wish.longest(shape)
    assert found.context == longest or (not wish.context and 512 <= found.context < longest)
    assert wish.kv_type in ("auto", found.kv_type)
    if found.kv_type == "q8_0" and wish.kv_type == "auto":
        assert shape.quantizes_cache and wish.flash
    elif wish.kv_type == "auto" and shape.quantizes_cache and wish.flash:
        assert found.context >= min(4096, longest), "the KV cache is made smaller first"


@SLOW
@given(shapes(), machines(), wishes)
def test_llama_cpp_divides_as_planned(shape: Shape, devices: list[Device], wish: Wish) -> None:
    found = planned(shape, devices, wish)
    if found and found.gpu_layers:
        assert len(found.devices) == len(found.tensor_split) == len(set(found.devices))
        planned_layers = [share.layers for share in found.shares[:-1]]
        assert llama_split(found.tensor_split, found.gpu_layers) == planned_layers


@SLOW
@given(shapes(), machines(), wishes)
def test_stepping_down_ends_and_gives_more_up_each_time(
    shape: Shape, devices: list[Device], wish: Wish
) -> None:
    found, words = planned(shape, devices, wish), []
    while found is not None and (step := step_down(shape, wish, found)):
        wish, said = step
        words.append(said)
        wish = msgspec.json.decode(msgspec.json.encode(wish), type=Wish)
        after = planned(shape, devices, wish)
        if after is not None:
            taken = {share.device: share.total for share in found.shares[:-1]}
            assert all(s.total < taken.get(s.device, 1 << 60) for s in after.shares[:-1])
            rank = [(p.context, p.kv_type == "f16") for p in (found, after)]
            assert rank[1] < rank[0] or found.gpu_layers
        found = after
    assert len(words) < 30
