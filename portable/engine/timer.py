"""Times what a model consists of with ggml: `python -m portable.engine.timer`, JSON in and out.

Weights lie where llama.cpp would put them: in a buffer type that repacks them for this CPU, if it
has one for the type.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from portable.engine.cores import default_threads
from portable.engine.ggml import F16, F32, Device, fill
from portable.engine.isolated import claimed_stdout
from portable.engine.kernels import Attention, Matrix, Operation, Request, Sum, Timed
from portable.engine.native import libggml
from portable.errors import EngineError

# All matrices take turns, so that each one comes from memory, as a model's weights do, and not from
# a cache; and a disturbance by another program hits them all.
WEIGHT_BYTES, ALL_BYTES = 16 << 20, 512 << 20
# Many vectors are bound by computing: of these, so few that a round takes some ten milliseconds.
BATCH_VALUES = 1 << 20
SECONDS = 1.0
_GRAPH = 64  # operations of one kind in a graph, at most


def rates(
    request: Request, seconds: float = SECONDS, weight_bytes: int = WEIGHT_BYTES
) -> list[Timed]:
    """All operations, timed in turns for `seconds` together, and three times at least."""
    device = Device(request.device, request.threads or default_threads())
    size = min(weight_bytes, ALL_BYTES // max(1, len(request.operations)))
    with ExitStack() as stack:
        graphs = [_graph(device, stack, operation, size) for operation in request.operations]
        best = [math.inf for _ in graphs]
        end, rounds = time.perf_counter() + seconds, 0
        while graphs and (time.perf_counter() < end or rounds < 3):
            # What else runs on the machine only ever adds to a time.
            best = [min(before, _run(device, made)) for before, made in zip(best, graphs)]
            rounds += 1
    return [Timed(taken / made.units, made.repacked) for taken, made in zip(best, graphs)]


class _Graph(NamedTuple):
    """`units` are what the time of the whole graph is divided by."""

    graph: int
    units: int
    repacked: bool = False


def _run(device: Device, made: _Graph) -> float:
    begin = time.perf_counter()
    device.compute(made.graph)
    return time.perf_counter() - begin


def _graph(device: Device, stack: ExitStack, operation: Operation, size: int) -> _Graph:
    """`size` is how many bytes it may read; `stack` frees it."""
    if isinstance(operation, Matrix):
        return _products(device, stack, operation, size)
    if isinstance(operation, Attention):
        return _attention(device, stack, operation, size)
    return _sums(device, stack, operation)


def _products(device: Device, stack: ExitStack, matrix: Matrix, size: int) -> _Graph:
    """Matrices as a layer has them, in the first buffer type that can multiply them."""
    if matrix.vectors > 1:
        size = min(size, BATCH_VALUES // matrix.columns * matrix.row_bytes)
    rows = min(4096, max(64, size // matrix.row_bytes // 64 * 64))
    count = min(_GRAPH, max(1, size // (rows * matrix.row_bytes)))
    for buffer in device.buffers:
        with ExitStack() as attempt:
            weights = device.context(attempt, count)
            results = device.context(attempt, count + 1)
            tensors = [
                libggml.ggml_new_tensor_2d(weights, matrix.type, matrix.columns, rows)
                for _ in range(count)
            ]
            device.allocate(attempt, weights, buffer)
            vectors = libggml.ggml_new_tensor_2d(results, F32, matrix.columns, matrix.vectors)
            products = [libggml.ggml_mul_mat(results, tensor, vectors) for tensor in tensors]
            if not device.supports(products[0]):
                continue
            graph = device.graph(results, products)
            device.allocate(attempt, results)
            for tensor in (*tensors, vectors):
                fill(tensor)
            stack.push(attempt.pop_all())
            return _Graph(graph, rows * count * matrix.columns, buffer != device.buffers[-1])
    raise EngineError(f"no buffer for type {matrix.type}")


def _attention(device: Device, stack: ExitStack, asked: Attention, size: int) -> _Graph:
    """Layers of a cache that lies as llama.cpp lays it: token by token, all groups of one."""
    values = asked.cells * asked.groups * (asked.key + asked.value)
    count = min(_GRAPH, max(1, size // (2 * values))) if asked.vectors == 1 else 1
    inputs, results = device.context(stack, 2 * count + 2), device.context(stack, 4 * count)

    def heads(kind: int, length: int, number: int, tokens: int) -> int:
        return int(libggml.ggml_new_tensor_3d(inputs, kind, length, number, tokens))

    query = heads(F32, asked.key, asked.heads, asked.vectors)
    mask = libggml.ggml_new_tensor_2d(inputs, F16, asked.cells, asked.vectors)
    caches = [
        [heads(asked.type, n, asked.groups, asked.cells) for n in (asked.key, asked.value)]
        for _ in range(count)
    ]
    device.allocate(stack, inputs)
    for tensor in (query, mask, *(tensor for cache in caches for tensor in cache)):
        fill(tensor)
    layers = [
        libggml.ggml_flash_attn_ext(
            results,
            *(libggml.ggml_permute(results, t, 0, 2, 1, 3) for t in (query, *cache)),
            mask,
            1.0,
            0.0,
            0.0,
        )
        for cache in caches
    ]
    graph = device.graph(results, layers)
    device.allocate(stack, results)
    return _Graph(graph, count)


def _sums(device: Device, stack: ExitStack, asked: Sum) -> _Graph:
    """One after another, as the operations of a layer wait for one another."""
    count = _GRAPH if asked.vectors == 1 else 4
    context = device.context(stack, count + 2)
    first, other = (
        libggml.ggml_new_tensor_2d(context, F32, asked.width, asked.vectors) for _ in range(2)
    )
    last = first
    for _ in range(count):
        last = libggml.ggml_add(context, last, other)
    graph = device.graph(context, [last])
    device.allocate(stack, context)
    for tensor in (first, other):
        fill(tensor)
    return _Graph(graph, count)


def main() -> int:
    """`python -m portable.engine.timer`."""
    results = claimed_stdout()
    requests = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Request])
    results.write(msgspec.json.encode([rates(request) for request in requests]))
    results.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
