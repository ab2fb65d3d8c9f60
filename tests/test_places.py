"""What lies where: by llama.cpp's words, by the devices' memory, and as it is told to people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from serving import Server, running, until
from workers import worker

from portable.engine.buffers import Buffers
from portable.engine.offload.device import GIB, MIB, Device
from portable.engine.offload.shape import Shape
from portable.engine.places import Place, doubts, places, slow, spoken
from portable.engine.weights import Weights

CUDA = Device("CUDA0", "RTX 3050", 3 * GIB, 4 * GIB, "gpu", "CUDA")
HOST = Device("CPU", "Ryzen", 9 * GIB, 16 * GIB, "cpu", "CPU")
BUFFERS = Buffers(
    weights={"CUDA0": 1 * GIB, "CPU": 5},
    mapped={"CPU": 7},
    cache={"CUDA0": 100 * MIB},
    state={"CUDA0": 1 * MIB},
    compute={"CUDA0": 200 * MIB, "CPU": 3},
    output={"CPU": 2},
    layers={"CPU": 9, "CUDA0": 20},
)


def test_each_device_with_the_host_last() -> None:
    left = [replace(CUDA, free=1 * GIB), replace(HOST, free=8 * GIB)]
    gpu, host = places(BUFFERS, [CUDA, HOST], left, 11)
    assert gpu == Place(
        *("CUDA0", "RTX 3050", "gpu", 20, GIB, 101 * MIB, 200 * MIB, 3 * GIB, GIB, 4 * GIB)
    )
    assert (host.device, host.kind, host.layers, host.bytes) == ("CPU", "cpu", 9, 11 + 3 + 2)
    assert spoken((gpu, host), 4) == (
        "20/29 layers -> CUDA0 (RTX 3050, 3.0/4.0 GiB), 9/29 layers -> CPU, 4 threads"
    )


def test_a_device_without_layers_is_none_that_anything_ran_on() -> None:
    gpu, host = places(replace(BUFFERS, layers={"CPU": 29}), [CUDA, HOST], [CUDA, HOST], 11)
    assert spoken((gpu, host), 4) == "all 29 layers on CPU, 4 threads"
    assert spoken((replace(gpu, layers=29), replace(host, layers=0)), 4) == (
        "29/29 layers -> CUDA0 (RTX 3050, 1.3/4.0 GiB)"
    )


def test_a_matrix_that_is_read_at_both_ends_lies_in_both_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gemma 3n's embeddings of each layer are read at the input alone."""
    monkeypatch.setattr("portable.engine.weights.lib.llama_model_size", lambda model: 1000)
    weights = Weights.__new__(Weights)
    weights._model, weights.buffers = None, Buffers(weights={"CUDA0": 700, "CPU": 500})
    for tied, stayed in ((200, 500), (0, 300)):
        weights._shape = Shape("gemma3n", (), input=500, output=200, tied=tied, width=1)
        assert weights._stayed() == stayed


def test_a_claim_without_memory_is_doubted() -> None:
    (gpu,) = places(BUFFERS, [CUDA], [CUDA], 0)
    (doubt,) = doubts([gpu])
    assert doubt.code == "not_taken" and "1.3 GiB lie on CUDA0" in doubt.what
    assert "fell by 0.0 GiB" in doubt.what
    assert not list(doubts([gpu], held=GIB))  # its driver says that this process has it
    assert not list(doubts([replace(gpu, free=2 * GIB)]))
    assert not list(doubts([replace(gpu, weights=0, compute=0)]))  # too little to be seen
    assert not list(doubts([replace(gpu, kind="rpc")]))  # other programs run there


def test_a_token_that_takes_longer_than_any_gpu_needs_is_doubted() -> None:
    gpu, host = places(replace(BUFFERS, layers={"CUDA0": 29}), [CUDA, HOST], [CUDA, HOST], 11)
    doubt = slow((gpu, host), 0.5)
    assert doubt and doubt.code == "slow" and "0.50 s" in doubt.what and "CUDA0" in doubt.what
    assert slow((gpu, host), 0.1) is None
    assert slow((gpu, replace(host, layers=1)), 9) is None  # the processor may be that slow
    assert slow((replace(gpu, kind="rpc"), host), 9) is None  # and so may the network
    assert slow((replace(host, layers=29),), 9) is None


def test_a_driver_that_knows_no_free_memory_is_not_doubted() -> None:
    (gpu,) = places(BUFFERS, [replace(CUDA, free=4 * GIB)], [replace(CUDA, free=4 * GIB)], 0)
    assert not list(doubts([gpu])) and "1.3/4.0 GiB" in str(gpu)


@pytest.mark.parametrize("layers", [12, 31])
def test_the_server_tells_what_lies_on_a_worker(layers: int) -> None:
    with worker("--port", "0", "--memory", "2GB") as lent:
        engine = {"context": 512, "slots": 2, "rpc": [lent.endpoint], "gpu_layers": layers}
        with running(engine) as server:
            check_told(server, layers)


def check_told(server: Server, layers: int) -> None:
    away, host = server.get("/props").json()["devices"]
    assert (away["type"], away["layers"], host["layers"]) == ("rpc", layers, 31 - layers)
    embeddings = 30081024  # Q8_0; they are the output, too, and so in both places
    (listed,) = server.get("/api/ps").json()["models"]
    file = server.get("/v1/models").json()["data"][0]["meta"]["size"]
    assert abs(away["weights"] + host["weights"] - file - embeddings) < MIB
    # Told in hundredths of a MiB.
    assert abs(away["cache"] + host["cache"] - 11.25 * MIB) < 0.02 * MIB
    taken = away["weights"] + away["cache"] + away["compute"]
    assert listed["size_vram"] == away["memory"] == taken
    assert listed["size"] == taken + host["weights"] + host["cache"] + host["compute"]
    assert f"{layers}/31 layers -> RPC0 (" in listed["placement"]
    assert f"{layers}/31 layers -> RPC0 (" in server.log
    rate = until(lambda: server.get("/props").json()["tokens_per_second"], 30)
    assert rate > 1 and "one request alone gets " in server.log
    line = f'portable_vram_used_bytes{{device="RPC0",model="{listed["name"]}"}} '
    (said,) = [each for each in server.get("/metrics").text.splitlines() if line in each]
    assert float(said.rpartition(" ")[2]) == taken
