"""What llama.cpp says while it loads, read; lines as this version of it wrote them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from portable.engine.buffers import Buffers, read
from portable.engine.config import EngineConfig
from portable.engine.llama import Llama
from portable.engine.native import lib, libggml

MIB = 1 << 20

# Two workers over loopback, 20 of 31 layers; the RPC buffers' own numbers are both 0.
TWO_WORKERS = """\
load_tensors: layer   9 assigned to device CPU, is_swa = 0
load_tensors: layer  10 assigned to device CPU, is_swa = 0
load_tensors: layer  11 assigned to device RPC0, is_swa = 0
load_tensors: layer  12 assigned to device RPC1, is_swa = 0
load_tensors: layer  13 assigned to device RPC1, is_swa = 0
load_tensors: offloaded 20/31 layers to GPU
load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
load_tensors: RPC0[127.0.0.1:50198] model buffer size =    47.71 MiB
load_tensors: RPC0[127.0.0.1:50199] model buffer size =    21.14 MiB
llama_context:        CPU  output buffer size =     0.75 MiB
llama_kv_cache:        CPU KV buffer size =     8.25 MiB
llama_kv_cache: RPC0[127.0.0.1:50198] KV buffer size =     6.75 MiB
llama_kv_cache: RPC0[127.0.0.1:50199] KV buffer size =     7.50 MiB
sched_reserve: RPC0[127.0.0.1:50199] compute buffer size =    11.51 MiB
sched_reserve: RPC0[127.0.0.1:50198] compute buffer size =    97.12 MiB
sched_reserve:        CPU compute buffer size =    13.76 MiB
"""
# Not recorded: by llama.cpp's source, as a machine with CUDA would say it.
CUDA = """\
load_tensors: layer   0 assigned to device CUDA0, is_swa = 0
load_tensors:        CUDA0 model buffer size =  1834.83 MiB
load_tensors:    CUDA_Host model buffer size =   182.57 MiB
load_tensors:   CPU_REPACK model buffer size =    10.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =     2.50 MiB
llama_kv_cache:      CUDA0 KV buffer size =    40.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    60.00 MiB
llama_context:  CUDA_Host  output buffer size =     0.58 MiB
sched_reserve:      CUDA0 compute buffer size =   298.50 MiB
sched_reserve:  CUDA_Host compute buffer size =    16.00 MiB
~llama_context:      CUDA0 compute buffer size is 298.5000 MiB, matches expectation of 298.5000 MiB
sched_reserve:      CUDA0 compute buffer size =   300.00 MiB
"""


@dataclass
class Worker:
    name: str
    description: str


def mib(sizes: dict[str, int]) -> dict[str, float]:
    return {name: round(size / MIB, 2) for name, size in sizes.items()}


def test_each_workers_buffers_are_its_own_though_they_are_named_alike() -> None:
    devices = [Worker("RPC0", "127.0.0.1:50199"), Worker("RPC1", "127.0.0.1:50198")]
    found = read(TWO_WORKERS.splitlines(), devices)
    assert mib(found.weights) == {"RPC0": 21.14, "RPC1": 47.71} and mib(found.mapped) == {
        "CPU": 92.1
    }
    assert mib(found.cache) == {"CPU": 8.25, "RPC0": 7.5, "RPC1": 6.75}
    assert mib(found.compute) == {"RPC0": 11.51, "RPC1": 97.12, "CPU": 13.76}
    assert mib(found.output) == {"CPU": 0.75}
    assert found.layers == {"CPU": 2, "RPC0": 1, "RPC1": 2}
    assert mib(found.elsewhere()) == {"RPC0": 40.15, "RPC1": 151.58}


def test_the_same_endpoint_may_have_several_devices() -> None:
    devices = [Worker("RPC0", "host:1"), Worker("RPC1", "host:1")]
    line = "llama_kv_cache: RPC1[host:1] KV buffer size =     6.75 MiB"
    assert list(read([line], devices).cache) == ["RPC1"]
    assert list(read([line]).cache) == ["RPC1[host:1]"]


def test_memory_of_the_host_is_the_hosts_whoever_it_was_pinned_for() -> None:
    found = read(CUDA.splitlines())
    assert mib(found.weights) == {"CUDA0": 1834.83, "CPU": 192.57}
    assert mib(found.cache) == {"CUDA0": 100} and mib(found.state) == {"CUDA0": 2.5}
    assert mib(found.compute) == {"CUDA0": 300, "CPU": 16}


def test_contexts_add_up() -> None:
    two = read(CUDA.splitlines()) + read(
        ["sched_reserve:      CUDA0 compute buffer size =  1.00 MiB"]
    )
    assert mib(two.compute) == {"CUDA0": 301, "CPU": 16} and two.layers == {"CUDA0": 1}


def test_what_the_summary_claims_is_no_layer() -> None:
    assert read(["load_tensors: offloaded 31/31 layers to GPU"]) == Buffers()


def test_a_model_on_the_cpu(smollm2: Path) -> None:
    llama = Llama(EngineConfig(smollm2, context=512, slots=4, step_tokens=64, threads=1))
    try:
        found = llama.buffers
        assert found.layers == {"CPU": 31} and llama.info().layers == 31
        assert abs(found.mapped["CPU"] - llama.info().size) < MIB
        assert mib(found.cache) == {"CPU": 11.25}
        assert found.compute["CPU"] > 0 and found.output["CPU"] > 0
    finally:
        llama.close()


def test_devices_are_listed_by_the_library_that_libllama_uses() -> None:
    """A wheel has copies of libggml: one device registered with the wrong one is never used."""
    used = ctypes.CDLL(lib.llama_cpp._lib._name)
    for name in ("ggml_backend_dev_count", "ggml_backend_rpc_add_server"):
        own, theirs = (ctypes.cast(getattr(one, name), ctypes.c_void_p) for one in (libggml, used))
        assert own.value == theirs.value
