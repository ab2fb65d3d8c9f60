"""The exact size of what llama.cpp computes in, for a model and a context that are not made.

Weights may be missing, see `sparse`. llama.cpp is loaded in a process of its own, for it aborts on
some files: `portable.engine.layout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from portable.engine import death
from portable.engine.isolated import ask
from portable.engine.machine import host
from portable.engine.offload.device import Device
from portable.engine.offload.plan import Plan
from portable.engine.offload.wish import Wish
from portable.errors import EngineError

SECONDS = 120


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


class Task(msgspec.Struct):
    """Workers are devices, once they are connected to."""

    rpc: tuple[str, ...] = ()
    requests: list[Request] = []


class Done(msgspec.Struct):
    """`missing`: why workers are no devices."""

    devices: list[Device]
    missing: list[str]
    reserved: list[Reserved]


def dry_run(requests: Sequence[Request], rpc: tuple[str, ...] = ()) -> list[Reserved]:
    """All of these, in one child process. Raises EngineError if llama.cpp dies of one.

    What llama.cpp refuses has an `error` and no sizes.
    """
    return _child(Task(rpc, list(requests))).reserved


def devices(rpc: tuple[str, ...] = ()) -> tuple[list[Device], list[str]]:
    """What layers can lie on, the host last, and why workers are not among it.

    Raises EngineError if llama.cpp cannot be loaded.
    """
    done = _child(Task(rpc))
    return [*done.devices, host()], done.missing


def _child(task: Task) -> Done:
    done = ask("portable.engine.layout", task, Done, seconds=SECONDS)
    if isinstance(done, death.Cause):
        raise EngineError(f"llama.cpp cannot lay this model out: {done.what}", hint=done.mend)
    return done


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
