"""A row of a family's tensor table, and the table filled in for one model; knows no family."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from convert.config import Config
from convert.part import Integers, Map, Part
from convert.safetensors_file import Stored
from portable.errors import CheckpointError

Pick = Callable[[], Integers]


@dataclass(frozen=True, eq=False)
class Row:
    """`source` -> `target`: `{i}` is the layer, `{e}` the expert, whose tensors are stacked.

    `stack` names the size that says how many are stacked, where they are no experts.

    `dims` are names of `Family.sizes`: the shape of one source tensor. `pick` says which of its
    rows become the target's, in which order, once that shape is known to be true; `map` changes
    values (see `Part`). `shape` names the target's shape where a `whole` map changes it, `layers`
    the layers that have this tensor.
    """

    source: str
    target: str
    dims: tuple[str, ...]
    optional: bool = False
    pick: Pick | None = None
    map: Map | None = None
    whole: bool = False
    shape: tuple[str, ...] = ()
    layers: Sequence[int] | None = None
    stack: str = "experts"


class Family(Protocol):
    """What each module of this package says about one `model_type`."""

    ARCHITECTURES: Sequence[str]  # strings of config.json's `architectures`
    GGUF: str  # llama.cpp's name of the architecture
    DEFAULTS: Mapping[str, Any]  # what transformers assumes where config.json is silent
    RENAMED: Sequence[tuple[str, str]]  # (pattern, replacement) of names that older files use
    SKIP: str  # pattern of tensors that the GGUF does not need
    VOCAB: str  # which reader of `convert.vocab`

    def sizes(self, config: Config) -> dict[str, int]: ...
    def rows(self, config: Config) -> Sequence[Row]: ...
    def metadata(self, config: Config) -> Iterable[tuple[str, str, Any]]: ...
    def extra_tensors(self, config: Config) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Placed:
    """A tensor of the GGUF: its name, its shape, and what of the checkpoint it is made of."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def linear(
    source: str,
    target: str,
    dims: tuple[str, str],
    bias: str = "",
    pick: Pick | None = None,
) -> list[Row]:
    """Weight and bias of a linear layer; `bias` is "", "optional" or "required"."""
    rows = [Row(f"{source}.weight", f"{target}.weight", dims, pick=pick)]
    if bias:
        name, goal = f"{source}.bias", f"{target}.bias"
        rows.append(Row(name, goal, dims[:1], optional=bias == "optional", pick=pick))
    return rows


def rotary_order(rows: int, heads: int) -> Integers:
    """Each head's two halves of rows interleaved: llama.cpp's order for llama-like attention."""
    half = rows // heads // 2
    return np.arange(rows).reshape(heads, 2, half).swapaxes(1, 2).reshape(-1)


def place(family: Family, config: Config, tensors: Mapping[str, Stored]) -> list[Placed]:
    """Every tensor in its place; CheckpointError on a missing, left-over or misshapen one."""
    sizes = family.sizes(config)
    named = _named(family, tensors)
    used: set[str] = set()
    missing: list[str] = []
    placed = []
    for row in filled(family.rows(config), sizes["layers"]):
        sources = sources_of(row, sizes)
        stacked = row.source.replace(".{e}", "")
        if stacked != row.source and stacked in named:
            named |= _split(named[stacked], sources)
            used.add(stacked)
        used.update(sources)
        absent = [name for name in sources if name not in named]
        if not absent:
            placed.append(_placed(row, [named[name] for name in sources], sizes))
        elif not row.optional or len(absent) < len(sources):
            missing += absent
    if missing:
        raise CheckpointError(
            f"{_few(missing)} missing from the weights", hint="download the checkpoint again"
        )
    unused = range(sizes["layers"], sizes["layers"] + sizes.get("unused_layers", 0))
    if left := sorted(n for n in named.keys() - used if layer_of(n) not in unused):
        raise CheckpointError(
            f"{_few(left)} not known in {family.GGUF} models",
            hint="the checkpoint is of another architecture than its config.json says",
        )
    return placed


def _named(family: Family, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors under their canonical names, without those that are skipped."""
    skip = re.compile(family.SKIP)
    named: dict[str, Stored] = {}
    for tensor in tensors.values():
        name = canonical(tensor.name, family.RENAMED)
        if skip.fullmatch(name):
            continue
        if name in named:
            raise CheckpointError(f"{tensor.name} and {named[name].name} are the same tensor")
        named[name] = tensor
    return named


def canonical(name: str, renamed: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renamed:
        name = re.sub(pattern, replacement, name)
    return name


def layer_of(name: str) -> int:
    """The number of a tensor's layer; -1 outside the layers."""
    match = re.search(r"\blayers\.(\d+)\.", name)
    return int(match[1]) if match else -1


def filled(rows: Sequence[Row], layers: int) -> Iterable[Row]:
    for row in rows:
        if "{i}" not in row.source:
            yield row
            continue
        for i in range(layers) if row.layers is None else row.layers:
            source, target = row.source.replace("{i}", str(i)), row.target.replace("{i}", str(i))
            yield replace(row, source=source, target=target)


def sources_of(row: Row, sizes: Mapping[str, int]) -> list[str]:
    if "{e}" not in row.source:
        return [row.source]
    return [row.source.replace("{e}", str(e)) for e in range(sizes[row.stack])]


def _split(stored: Stored, names: Sequence[str]) -> dict[str, Stored]:
    """A tensor for each expert out of one that has all of them, one after another."""
    count, *shape = stored.shape
    if count != len(names) and shape and count % len(names) == 0:
        count, shape = len(names), [count // len(names), *shape]
    if count != len(names):
        raise CheckpointError(f"{stored.name} has {count} experts, but there are {len(names)}")
    size = stored.bytes // count
    return {
        name: replace(stored, shape=tuple(shape), start=stored.start + i * size, bytes=size)
        for i, name in enumerate(names)
    }


def _placed(row: Row, stored: list[Stored], sizes: Mapping[str, int]) -> Placed:
    wanted = tuple(sizes[dim] for dim in row.dims)
    for tensor in stored:
        if tensor.shape != wanted:
            raise CheckpointError(
                f"{tensor.name} has shape {list(tensor.shape)}, but config.json says {list(wanted)}"
            )
    pick = row.pick() if row.pick else None
    shape = wanted if pick is None else (len(pick), *wanted[1:])
    if row.shape:
        shape = tuple(sizes[dim] for dim in row.shape)
    parts = tuple(Part(tensor, shape, pick, row.map, row.whole) for tensor in stored)
    stacked = "{e}" in row.source
    return Placed(row.target, (len(stored), *shape) if stacked else shape, parts)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} is" if len(names) == 1 else f"{shown} ({len(names)} tensors in all) are"
