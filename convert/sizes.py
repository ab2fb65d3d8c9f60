"""A conversion that is not made: the size of the file for every quantization, to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convert.gguf_file import Info, data_size, head_size, padded
from convert.mix import Mix
from convert.options import Options
from convert.pipeline import name_of, opened
from convert.plan import Plan
from convert.quants import QUANTS
from convert.remote import Remote
from convert.stream import Job
from portable.errors import UsageError
from portable.gguf import Tensor


@dataclass(frozen=True)
class Size:
    """What a quantization would take: `size` in bytes; `bits` a value, of the whole file, which
    holds `tensors`."""

    quant: str
    size: int
    bits: float
    needs_imatrix: bool
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Preview:
    """`weights` and `size` in bytes; `cache` is a token's share of the KV cache, in F16. `front` is
    what the file begins with, before its tensors."""

    architecture: str
    parameters: int
    context: int
    cache: int
    weights: int
    size: int
    front: bytes
    sizes: tuple[Size, ...]
    warnings: tuple[str, ...] = ()


def preview(
    source: Path,
    options: Options,
    *,
    adapter: Path | None = None,
    remote: Sequence[Remote] = (),
) -> Preview:
    """What `convert` would make, and raises before. Of `remote` only headers are read."""
    with opened(source, adapter, remote) as checkpoint:
        plan = Plan(checkpoint, options, name_of(options, source))
        arch = plan.family.GGUF

        def number(key: str, default: int = 0) -> int:
            return _number(plan.keys.get(f"{arch}.{key}", ("", default))[1])

        heads = number("attention.head_count", 1)
        width = number("embedding_length") // heads
        groups = number("attention.head_count_kv", heads) * number("block_count")
        key, value = (number(f"attention.{kind}_length", width) for kind in ("key", "value"))
        return Preview(
            architecture=arch,
            parameters=plan.parameters,
            context=number("context_length"),
            cache=2 * groups * (key + value),
            weights=sum(file.size for file in plan.checkpoint.files),
            size=plan.size,
            front=plan.front,
            sizes=tuple(sizes(plan)),
            warnings=tuple(plan.warnings),
        )


def sizes(plan: Plan) -> list[Size]:
    """For each quantization that can store this model's rows, large files first."""
    # Nothing in the head but the quantization's name has another length in another file.
    rest = head_size(plan.keys, plan.infos) - len(plan.quant.name)
    found = []
    for quant in QUANTS:
        mix = plan.mix(quant)
        try:
            infos = [_typed(job, mix) for job in plan.jobs]
        except UsageError:
            continue
        size = padded(rest + len(quant)) + data_size(infos)
        blind = plan.imatrix is None and any(mix.is_blind(i.name, i.type.name) for i in infos)
        found.append(Size(quant, size, 8 * size / plan.parameters, blind, tuple(_laid(infos))))
    return found


def _laid(infos: Sequence[Info]) -> Iterator[Tensor]:
    """One behind the other, as `head` writes them."""
    offset = 0
    for info in infos:
        yield Tensor(info.name, info.shape, info.type.id, offset)
        offset += padded(info.bytes)


def _typed(job: Job, mix: Mix) -> Info:
    """What a tensor becomes; the config's values and 4-bit blocks are the same in every file."""
    info = job.info
    if job.kept or not job.parts:
        return info
    return replace(info, type=mix.type_of(info.name, info.shape))


def _number(value: Any) -> int:
    """Some models have another number in each layer: the largest is said."""
    return int(max(value) if isinstance(value, list | tuple) else value)
