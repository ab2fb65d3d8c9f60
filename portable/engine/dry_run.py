"""The exact size of what llama.cpp computes in, for a model and a context that are not made.

llama.cpp's own loading with `no_alloc` reads a GGUF's head and lays out its graphs; weights may be
missing, see `sparse`. Run in a process of its own: `python -m portable.engine.dry_run`, JSON in and
out, for llama.cpp aborts on some files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from psutil import Process, virtual_memory

from portable.engine import death
from portable.engine.buffers import HOST, read
from portable.engine.config import EngineConfig
from portable.engine.machine import available_memory
from portable.engine.native import last_words, lib, list_devices, listen, load_model, start
from portable.engine.offload.device import Device
from portable.engine.offload.plan import Plan
from portable.engine.offload.wish import Wish
from portable.engine.placement import model_params
from portable.engine.processor import processor
from portable.engine.rpc.devices import connect
from portable.errors import EngineError, PortableError

SECONDS = 120
_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type


class Request(msgspec.Struct, frozen=True):
    """A context of `cells` tokens for `sequences`, which reads `batch` tokens a step.

    `outputs` are the rows that a step has logits for, 0: all; `flash` is llama.cpp's
    flash_attn_type. With a `pooling`, llama.cpp's number for it, it makes vectors. The last
    `gpu_layers` go to the `devices`, in shares of `tensor_split`; the experts of the first
    `experts_on_host` layers stay.
    """

    model: str
    cells: int
    batch: int
    sequences: int
    outputs: int = 0
    unified: bool = True
    kv_type: str = "f16"
    flash: int = -1
    pooling: int | None = None
    gpu_layers: int = 0
    devices: tuple[str, ...] = ()
    tensor_split: tuple[float, ...] = ()
    experts_on_host: int = 0
    cache_on_host: bool = False


def request_of(model: Path, wish: Wish, plan: Plan) -> Request:
    """What a plan comes to."""
    return Request(
        str(model),
        cells=wish.cells(plan.context),
        batch=wish.rows,
        sequences=wish.sequences,
        outputs=wish.outputs,
        unified=not wish.apart,
        kv_type=plan.kv_type,
        flash=0 if not wish.flash else -1 if plan.kv_type == "f16" else 1,
        gpu_layers=plan.gpu_layers,
        devices=plan.devices,
        tensor_split=plan.tensor_split,
        experts_on_host=plan.experts_on_host,
        cache_on_host=plan.cache_on_host,
    )


class Reserved(msgspec.Struct, frozen=True):
    """Bytes of the compute buffers by device, the host being "CPU", and of the `output` there.

    `nodes` are the operations of a step. `process` is what the process takes that tried it: without
    weights, cache and compute buffers it holds the libraries and the vocabulary.
    """

    compute: dict[str, int] = {}
    output: int = 0
    nodes: int = 0
    process: int = 0
    error: str = ""


class _Task(msgspec.Struct):
    """Workers are devices, once they are connected to."""

    rpc: tuple[str, ...] = ()
    requests: list[Request] = []


class _Done(msgspec.Struct):
    """`missing`: why workers are no devices."""

    devices: list[Device]
    missing: list[str]
    reserved: list[Reserved]


def dry_run(requests: Sequence[Request], rpc: tuple[str, ...] = ()) -> list[Reserved]:
    """All of these, in one child process. Raises EngineError if llama.cpp dies of one.

    What llama.cpp refuses has an `error` and no sizes.
    """
    return _child(_Task(rpc, list(requests))).reserved


def devices(rpc: tuple[str, ...] = ()) -> tuple[list[Device], list[str]]:
    """What layers can lie on, the host last, and why workers are not among it.

    Raises EngineError if llama.cpp cannot be loaded.
    """
    done = _child(_Task(rpc))
    name, total = processor().name, virtual_memory().total
    host = Device(HOST, name, available_memory(), total, "cpu", HOST)
    return [*done.devices, host], done.missing


def _child(task: _Task) -> _Done:
    command = [sys.executable, "-m", "portable.engine.dry_run"]
    given = msgspec.json.encode(task)
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError("llama.cpp does not come back from laying a model out") from None
    try:
        return msgspec.json.decode(done.stdout, type=_Done)
    except msgspec.DecodeError:
        cause = death.explain(done.returncode, done.stderr.decode("utf-8", "replace"))
        raise EngineError(
            f"llama.cpp cannot lay this model out: {cause.what}", hint=cause.mend
        ) from None


@contextmanager
def sparse(files: Sequence[tuple[bytes, int]]) -> Iterator[Path]:
    """A model whose files begin with these heads and are so many bytes long, of which the rest
    takes no room."""
    with TemporaryDirectory(prefix="portable-fit-") as folder:
        whole = f"-of-{len(files):05d}.gguf"
        names = [f"m-{n:05d}{whole}" for n in range(1, len(files) + 1)] if files[1:] else ["m.gguf"]
        for name, (head, size) in zip(names, files):
            with (Path(folder) / name).open("wb") as file:
                file.write(head)
                file.truncate(size)
        yield Path(folder) / names[0]


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
    chosen = [device for device in here if device.name in request.devices]
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
    """`python -m portable.engine.dry_run`."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=_Task)
    start()
    missing = [error.message for error in connect(task.rpc)]
    found, _ = list_devices(task.rpc)
    done = _Done(found, missing, [reserve(request, task.rpc) for request in task.requests])
    results.write(msgspec.json.encode(done))
    results.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
