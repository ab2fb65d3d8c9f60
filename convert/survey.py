"""What each quantization would make of a model: its size, its error, and what decoding multiplies.

The error is that of a sample of rows: of each kind of matrix some of three layers, quantized to the
types that the mix would choose. So a survey takes seconds where a conversion takes minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.error import Error
from convert.gguf_file import Info, data_size
from convert.options import Options
from convert.part import Part
from convert.pipeline import opened
from convert.plan import Plan
from convert.quantize import prepare, quantize_rows
from convert.remote import Remote
from convert.stream import Job
from portable.tensortype import TYPES, TensorType

QUANTS = (
    "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M",
    "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip
SAMPLE = 1 << 16  # values of one tensor
LOOKED_UP = ("token_embd", "position_embd", "token_types")
Kind = tuple[str, int]
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Candidate:
    """`error` is the root of the mean square of all matrices' relative errors, each counted once.

    `work` says how many values of each type and row length are multiplied for one token.
    """

    quant: str
    size: int
    error: float
    work: dict[tuple[TensorType, int], float]


def survey(
    source: Path, options: Options, *, adapter: Path | None = None, remote: Sequence[Remote] = ()
) -> list[Candidate]:
    """One candidate for each of `QUANTS`. Raises what `convert` raises before it begins.

    Of weights that are not on this disk nothing is read: normal values stand for them.
    """
    with opened(source, adapter, remote) as checkpoint:
        plan = Plan(checkpoint, options, "survey")
        mixes = {quant: plan.types(quant) for quant in QUANTS}
        prepare({kind for types in mixes.values() for kind in types.values()})
        errors = _errors(plan, mixes, options.workers)
        return [_candidate(plan, quant, types, errors) for quant, types in mixes.items()]


def _candidate(
    plan: Plan, quant: str, types: dict[str, TensorType], errors: dict[tuple[Kind, str], float]
) -> Candidate:
    matrices = [job.info for job in plan.jobs if _is_matrix(job, types)]
    squares = [errors.get((_kind(info), types[info.name].name), 0) ** 2 for info in matrices]
    infos = [Info(i.name, i.shape, types.get(i.name, i.type)) for i in plan.infos]
    work: dict[tuple[TensorType, int], float] = {}
    for info, share in _multiplied(plan, matrices):
        key = types[info.name], info.shape[-1]
        work[key] = work.get(key, 0) + share * float(np.prod(info.shape, dtype=float))
    size = len(plan.front) + data_size(infos)
    return Candidate(quant, size, float(np.sqrt(np.mean(squares))), work)


def _is_matrix(job: Job, types: dict[str, TensorType]) -> bool:
    return bool(job.parts) and types[job.info.name].name != "F32"


def _multiplied(plan: Plan, matrices: Sequence[Info]) -> Iterator[tuple[Info, float]]:
    """Matrices that a token is multiplied by, and the share of each: of experts some are chosen."""
    tied = not any(info.name == "output.weight" for info in matrices)
    arch = plan.family.GGUF
    used = plan.keys.get(f"{arch}.expert_used_count", ("", 1))[1]
    count = plan.keys.get(f"{arch}.expert_count", ("", 1))[1]
    for info in matrices:
        looked_up = info.name.startswith(LOOKED_UP)
        if not looked_up or (tied and info.name.startswith("token_embd")):
            yield info, used / count if "_exps" in info.name else 1.0


def _kind(info: Info) -> Kind:
    """`blk.3.ffn_up.weight` and `blk.4.ffn_up.weight` are of one kind, if their rows are alike."""
    name = info.name.split(".", 2)[2] if info.name.startswith("blk.") else info.name
    return name, info.shape[-1]


def _errors(
    plan: Plan, mixes: dict[str, dict[str, TensorType]], threads: int
) -> dict[tuple[Kind, str], float]:
    """Relative error by kind and type."""
    kinds: dict[Kind, list[Job]] = {}
    for job in plan.jobs:
        if not job.kept and any(_is_matrix(job, types) for types in mixes.values()):
            kinds.setdefault(_kind(job.info), []).append(job)
    wanted = []
    for kind, jobs in kinds.items():
        names = {types[job.info.name].name for types in mixes.values() for job in jobs}
        some = dict.fromkeys((jobs[0], jobs[len(jobs) // 2], jobs[-1]))
        rows = [_sample(job, bool(plan.checkpoint.remote)) for job in some]
        wanted += [(kind, name, rows) for name in sorted(names - {"F32"})]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda entry: _error(entry[2], TYPES[entry[1]]), wanted)
        return {(kind, name): error for (kind, name, _), error in zip(wanted, found)}


def _sample(job: Job, absent: bool) -> Floats:
    """Rows from the middle of a tensor; of experts from the middle one."""
    part: Part = job.parts[len(job.parts) // 2]
    if absent:
        shape = max(1, SAMPLE // part.columns), part.columns
        return np.random.default_rng(0).standard_normal(shape, np.float32)
    count = part.rows if part.whole else min(part.rows, max(1, SAMPLE // part.columns))
    first = (part.rows - count) // 2
    low, raw = part.read(first, count)
    return part.values(first, count, low, raw).copy()


def _error(samples: Sequence[Floats], kind: TensorType) -> float:
    error = Error()
    for values in samples:
        error.add(values, quantize_rows(values, kind), kind)
    return error.relative
