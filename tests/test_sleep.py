"""After the machine slept: what ran on a GPU is loaded again; if less runs there, that is said."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from test_server_fleet import Machine, Process
from test_server_unit import INFO

from portable.engine import protocol
from portable.engine.config import EngineConfig
from portable.engine.findings import RELOAD
from portable.engine.offload.device import GIB
from portable.engine.places import Place
from portable.server import room
from portable.server.fleet import Fleet
from portable.server.served import ModelConfig, Served
from portable.server.sleep import Sleep, behind

CPU = Place("CPU", "Ryzen", "cpu", 29, GIB)
GPU = Place("CUDA0", "RTX 3050", "gpu", 29, GIB)


def test_only_time_that_nobody_saw_is_sleep() -> None:
    clock = iter([100.0, 100.0, 100.5, 700.5, 700.5])
    sleep = Sleep(lambda: next(clock))
    assert [sleep.seconds() for _ in range(4)] == [0.0, 0.0, 600.0, 0.0]


def test_no_sleep_is_seen_in_a_running_program() -> None:
    sleep = Sleep(behind)
    assert sleep.seconds() == 0.0


@pytest.mark.parametrize(
    ("places", "loads"), [((GPU,), 2), ((CPU,), 1), ((replace(GPU, device="MTL0"),), 1)]
)
def test_what_was_on_a_gpu_is_loaded_again(
    places: tuple[Place, ...], loads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(GIB)
    monkeypatch.setattr(room, "need", lambda config: GIB)
    monkeypatch.setattr("portable.server.fleet._REAP_SECONDS", 0.001)
    clock = [0.0]

    async def main() -> None:
        process = Process("a", GIB, machine)
        served = Served(ModelConfig(engine=EngineConfig(Path("a")), names=("a",)), process)
        fleet = Fleet([served], free=lambda: machine.free, sleep=Sleep(lambda: clock[0]))
        fleet.start()
        await process.ready.wait()
        process.info = replace(INFO, places=places)
        clock[0] = 600.0
        async with asyncio.timeout(10):
            while machine.log.count("+a") < loads:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            await process.ready.wait()
        await fleet.stop()

    asyncio.run(main())
    assert machine.log == ["+a", "-a"] * loads


@pytest.mark.parametrize("slept", [True, False])
def test_fewer_layers_than_before_the_machine_slept(
    slept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process("a", 0, Machine(0))
    for place in (GPU, CPU):
        process.slept = slept
        ready = protocol.Ready(replace(INFO, places=(place,)), "", "")
        with caplog.at_level(logging.WARNING, "portable"):
            assert process._handle(ready)
    assert [f.mend for f in process.findings] == [RELOAD] * slept
    assert ("0 layers are on GPUs, 29 were there before the machine slept" in caplog.text) == slept
