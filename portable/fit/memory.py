"""Bytes that a planned model takes of the host's memory and of the devices'. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portable.engine.offload.plan import Plan
from portable.engine.offload.shape import Shape
from portable.fit.speed import Times, matrix
from portable.gguf import Head, Tensor

# What the program loads beside what a dry run loads: its grammars, templates and tokenizer tables.
_PROGRAM = 16 << 20
# Rows that llama.cpp's kernels of repacked weights take at a time.
_ROWS = 8


@dataclass(frozen=True)
class Memory:
    """Of the host, in bytes, when the whole context is used.

    `process` is the program with its libraries and the vocabulary; `compute` is what steps are
    computed in, with the logits. `mapped` are pages of the file that loading has read for good:
    they count as the program's until somebody needs the memory, and are not in `total`.
    """

    process: int
    weights: int
    cache: int
    compute: int
    mapped: int = 0

    @property
    def total(self) -> int:
        return self.process + self.weights + self.cache + self.compute

    @property
    def resident(self) -> int:
        """What the system shows of the process while memory is plenty."""
        return self.total + self.mapped


def memory(
    plan: Plan, shape: Shape, heads: Sequence[Head], process: int, times: Times, *, mmap: bool
) -> Memory:
    """`process` is what a dry run takes. `times` tell which weights are repacked; of a matrix that
    they do not know none are."""
    host = plan.shares[-1]
    layers = len(shape.layers) + 1 - plan.gpu_layers
    repacked = list(_repacked(heads, times)) if layers == len(shape.layers) + 1 else []
    # A tied output matrix is the embedding, which stays as it is, too.
    again = shape.input if shape.tied and any(_is_embedding(tensor) for tensor in repacked) else 0
    once = sum(tensor.bytes for tensor in repacked if not _is_embedding(tensor))
    return Memory(
        process + _PROGRAM,
        host.weights + again,
        host.cache,
        host.compute,
        once if mmap else 0,
    )


def _repacked(heads: Sequence[Head], times: Times) -> Iterator[Tensor]:
    names = {tensor.name for head in heads for tensor in head.infos}
    for tensor in (tensor for head in heads for tensor in head.infos):
        if len(tensor.shape) < 2 or tensor.shape[-2] % _ROWS:
            continue
        if _is_embedding(tensor) and "output.weight" in names:
            continue
        timed = times.get(matrix((tensor.type, tensor.shape[-1]), 1))
        if timed and timed.repacked:
            yield tensor


def _is_embedding(tensor: Tensor) -> bool:
    return tensor.name == "token_embd.weight"
