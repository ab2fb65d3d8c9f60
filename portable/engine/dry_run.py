"""The exact size of what llama.cpp computes in, for a model and a context that are not made.

llama.cpp's own loading with `no_alloc` reads a GGUF's head and lays out its graphs; weights may be
missing, see `sparse`. Run in a process of its own: `python -m portable.engine.dry_run`, JSON in and
out, for llama.cpp aborts on some files.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from psutil import Process

from portable.engine.buffers import read
from portable.engine.native import last_words, lib, list_devices, listen, load_model, start
from portable.errors import EngineError, PortableError

SECONDS = 120
_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type


class Request(msgspec.Struct, frozen=True):
    """A context of `cells` tokens for `sequences`, which reads `batch` tokens a step.

    `outputs` are the rows that a step has logits for, 0: all; `flash` is llama.cpp's
    flash_attn_type. With a `pooling`, llama.cpp's number for it, it makes vectors. The last
    `gpu_layers` go to the devices, in shares of `tensor_split`.
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
    tensor_split: tuple[float, ...] = ()
    cache_on_host: bool = False


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


def dry_run(requests: Sequence[Request]) -> list[Reserved]:
    """All of these, in one child process. Raises EngineError if llama.cpp dies of one.

    What llama.cpp refuses has an `error` and no sizes.
    """
    command = [sys.executable, "-m", "portable.engine.dry_run"]
    given = msgspec.json.encode(requests)
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS)
        return msgspec.json.decode(done.stdout, type=list[Reserved])
    except (subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        raise EngineError(
            "llama.cpp cannot lay this model out", hint="portable verify FILE says more"
        ) from error


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


def reserve(request: Request) -> Reserved:
    """In this process."""
    start()
    try:
        with ExitStack() as stack, listen() as log:
            devices, _ = list_devices()
            model = load_model(Path(request.model), _model_params(request))
            stack.callback(lib.llama_model_free, model)
            context = lib.llama_init_from_model(model, _context_params(request))
            if not context:
                return Reserved(error=last_words() or "llama.cpp makes no such context")
            stack.callback(lib.llama_free, context)
            found = read("".join(log).splitlines(), devices)
            return Reserved(
                found.compute, sum(found.output.values()), _nodes(log), Process().memory_info().rss
            )
    except PortableError as error:
        return Reserved(error=error.message)


def _nodes(log: Sequence[str]) -> int:
    found = re.search(r"graph.*: nodes = (\d+)", "".join(log))
    return int(found[1]) if found else 0


def _model_params(request: Request) -> lib.llama_model_params:
    params = lib.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    params.n_gpu_layers = request.gpu_layers
    if request.tensor_split:
        split = (ctypes.c_float * lib.llama_max_devices())(*request.tensor_split)
        params.tensor_split = split
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
    requests = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Request])
    results.write(msgspec.json.encode([reserve(request) for request in requests]))
    results.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
