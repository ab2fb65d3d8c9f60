"""llama.cpp lays a model's graphs out without its weights and says how large its buffers would be.

Its own loading with `no_alloc` reads a GGUF's head. `python -m portable.engine.layout`, JSON in and
out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from psutil import Process

from portable.engine.buffers import read
from portable.engine.config import EngineConfig
from portable.engine.dry_run import Done, Request, Reserved, Task
from portable.engine.isolated import claimed_stdout
from portable.engine.native import last_words, lib, list_devices, listen, load_model, start
from portable.engine.offload.device import Device
from portable.engine.placement import model_params
from portable.engine.rpc.devices import connect
from portable.errors import PortableError

_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type


def reserve(request: Request, workers: tuple[str, ...] = ()) -> Reserved:
    """In this process, which is connected to these workers."""
    start()
    try:
        with ExitStack() as stack, listen() as log:
            here, _ = list_devices(workers)
            model = load_model(Path(request.model), _model_params(request, here))
            stack.callback(lib.llama_model_free, model)
            context = lib.llama_init_from_model(model, _context_params(request))
            if not context:
                return Reserved(error=last_words() or "llama.cpp makes no such context")
            stack.callback(lib.llama_free, context)
            found = read("".join(log).splitlines(), here)
            return Reserved(
                found.compute, sum(found.output.values()), _nodes(log), Process().memory_info().rss
            )
    except PortableError as error:
        return Reserved(error=error.message)


def _nodes(log: Sequence[str]) -> int:
    found = re.search(r"graph.*: nodes = (\d+)", "".join(log))
    return int(found[1]) if found else 0


def _model_params(request: Request, here: Sequence[Device]) -> lib.llama_model_params:
    config = EngineConfig(Path(request.model), load_mode="none")
    known = {device.name: device for device in here}
    chosen = [known[name] for name in request.devices if name in known]
    params = model_params(
        config, chosen, request.gpu_layers, request.tensor_split, request.experts_on_host
    )
    params.no_alloc = True
    return params


def _context_params(request: Request) -> lib.llama_context_params:
    params = lib.llama_context_default_params()
    params.n_ctx = request.cells
    params.n_batch = params.n_ubatch = request.batch
    params.n_seq_max = request.sequences
    params.n_outputs_max = max(request.outputs, request.sequences) if request.outputs else 0
    if request.pooling is not None:
        params.embeddings, params.pooling_type = True, request.pooling
    params.kv_unified = request.unified
    params.flash_attn_type = request.flash
    params.type_k = params.type_v = _TYPES[request.kv_type]
    params.op_offload = bool(request.gpu_layers)
    params.offload_kqv = bool(request.gpu_layers) and not request.cache_on_host
    return params


def main() -> int:
    """`python -m portable.engine.layout`."""
    results = claimed_stdout()
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    start()
    missing = [error.message for error in connect(task.rpc)]
    found, _ = list_devices(task.rpc)
    done = Done(found, missing, [reserve(request, task.rpc) for request in task.requests])
    results.write(msgspec.json.encode(done))
    results.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
