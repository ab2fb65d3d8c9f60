"""A row of a family's tensor table, and the table filled in for one model; knows no family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from convert.config import Config
from convert.safetensors_file import Stored
from portable.errors import CheckpointError


@dataclass(frozen=True)
class Row:
    """`source` -> `target`, `{i}` being the layer; `dims` are names of `Family.sizes`.

    `rotary` names the head count whose rows are put into llama.cpp's rotary order.
    """

    source: str
    target: str
    dims: tuple[str, ...]
    optional: bool = False
    rotary: str = ""


class Family(Protocol):
    """What each module of this package says about one `model_type`."""

    ARCHITECTURES: Sequence[str]  # strings of config.json's `architectures`
    GGUF: str  # llama.cpp's name of the architecture
    DEFAULTS: Mapping[str, Any]  # what transformers assumes where config.json is silent
    ROWS: Sequence[Row]
    RENAMED: Sequence[tuple[str, str]]  # (pattern, replacement) of names that older files use
    SKIP: str  # pattern of tensors that the GGUF does not need
    VOCAB: str  # which reader of `convert.vocab`

    def sizes(self, config: Config) -> dict[str, int]: ...
    def metadata(self, config: Config) -> Iterable[tuple[str, str, Any]]: ...
    def extra_tensors(self, config: Config) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Placed:
    """A tensor of the checkpoint under its GGUF name. `turn`: rows of a head in rotary order."""

    name: str
    stored: Stored
    turn: int = 0


def linear(
    source: str, target: str, dims: tuple[str, str], bias: str = "", rotary: str = ""
) -> list[Row]:
    """Weight and bias of a linear layer; `bias` is "", "optional" or "required"."""
    rows = [Row(f"{source}.weight", f"{target}.weight", dims, rotary=rotary)]
    if bias:
        name, goal = f"{source}.bias", f"{target}.bias"
        rows.append(Row(name, goal, dims[:1], optional=bias == "optional", rotary=rotary))
    return rows


def place(family: Family, sizes: Mapping[str, int], tensors: Mapping[str, Stored]) -> list[Placed]:
    """Every tensor in its place; CheckpointError on a missing, left-over or misshapen one."""
    skip = re.compile(family.SKIP)
    named: dict[str, Stored] = {}
    for tensor in tensors.values():
        name = canonical(tensor.name, family.RENAMED)
        if skip.fullmatch(name):
            continue
        if name in named:
            raise CheckpointError(f"{tensor.name} and {named[name].name} are the same tensor")
        named[name] = tensor
    placed = list(_placed(_filled(family.ROWS, sizes["layers"]), sizes, named))
    left = sorted(named)
    if left:
        raise CheckpointError(
            f"{_few(left)} not known in {family.GGUF} models",
            hint="the checkpoint is of another architecture than its config.json says",
        )
    return placed


def canonical(name: str, renamed: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renamed:
        name = re.sub(pattern, replacement, name)
    return name


def _filled(rows: Sequence[Row], layers: int) -> Iterable[Row]:
    for row in rows:
        for i in range(layers if "{i}" in row.source else 1):
            source, target = row.source.replace("{i}", str(i)), row.target.replace("{i}", str(i))
            yield Row(source, target, row.dims, row.optional, row.rotary)


def _placed(
    rows: Iterable[Row], sizes: Mapping[str, int], named: dict[str, Stored]
) -> Iterable[Placed]:
    missing = []
    for row in rows:
        tensor = named.pop(row.source, None)
        if tensor is None:
            if not row.optional:
                missing.append(row.source)
            continue
        wanted = tuple(sizes[dim] for dim in row.dims)
        if tensor.shape != wanted:
            raise CheckpointError(
                f"{tensor.name} has shape {list(tensor.shape)}, but config.json says {list(wanted)}"
            )
        yield Placed(row.target, tensor, wanted[0] // sizes[row.rotary] if row.rotary else 0)
    if missing:
        raise CheckpointError(
            f"{_few(missing)} missing from the weights", hint="download the checkpoint again"
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} is" if len(names) == 1 else f"{shown} ({len(names)} tensors in all) are"
