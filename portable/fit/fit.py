"""Every quantization of a model on this machine: where it would lie, how fast, or why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from portable.engine.buffers import HOST
from portable.engine.config import EngineConfig
from portable.engine.cores import default_threads
from portable.engine.dry_run import Request, Reserved, devices, dry_run, request_of, sparse
from portable.engine.offload.device import Device
from portable.engine.offload.plan import Plan, plan
from portable.engine.offload.shape import Shape, shape_of
from portable.engine.offload.wish import Wish, wish_of
from portable.errors import NotEnoughMemory
from portable.fit.machine import Machine, Say
from portable.fit.memory import Memory, memory
from portable.fit.speed import Times, decode_seconds, operations, prompt_seconds
from portable.fit.variant import Candidates, Variant
from portable.fit.work import Work, work_of
from portable.progress import size

PLENTY = 1 << 50  # bytes
# As an encoder reads: texts at once, llama.cpp's pooling type, tokens beyond which flash
# attention is on.
_TEXTS, _MEAN, _LONG = 64, 1, 1024


@dataclass(frozen=True)
class Question:
    """How the model would be run: `prompt` tokens are read, then it answers.

    `threads` 0 are those that the engine would take; `again` measures this machine anew. Without
    `mmap` the file is read and not mapped.
    """

    wish: Wish
    devices: Sequence[Device]
    rpc: tuple[str, ...] = ()
    prompt: int = 512
    threads: int = 0
    mmap: bool = True
    again: bool = False


def usual() -> Question:
    """As `portable chat` runs a model without a flag. Raises EngineError without llama.cpp."""
    here, _ = devices()
    return Question(wish_of(EngineConfig(Path("model"), slots=1)), here)


@dataclass(frozen=True)
class Row:
    """One quantization. `plan` is what would be done, or what would take least if it does not fit.

    `rate` in tokens a second and `first_token` in seconds are None where layers lie on devices
    whose speed is not known. `lacks` says what there is not enough of, memory or disk, or that
    llama.cpp refuses the model for want of support; it is empty if nothing is missing.
    """

    variant: Variant
    plan: Plan
    memory: Memory
    rate: float | None
    first_token: float | None
    lacks: str = ""
    why: str = ""

    @property
    def fits(self) -> bool:
        return not self.lacks


@dataclass(frozen=True)
class Case:
    """A variant that is planned, or how it would take least; `why` it does not fit into memory."""

    variant: Variant
    shape: Shape
    work: Work
    plan: Plan
    why: str

    @property
    def fits(self) -> bool:
        return not self.why


def rows(candidates: Candidates, question: Question, say: Say) -> list[Row]:
    """In the candidates' order. Raises ModelFileError, UsageError and EngineError."""
    cases = planned(candidates, question)
    reserved = _reserved(candidates, cases, question)
    times = _times(cases, question, say)
    return [_row(case, told, times, candidates, question) for case, told in zip(cases, reserved)]


def planned(candidates: Candidates, question: Question) -> list[Case]:
    """Where the candidates would lie, and which do not fit; asks for no time and lays nothing out.

    Raises ModelFileError and UsageError.
    """
    return [_case(variant, question) for variant in candidates.variants]


class Judged(Protocol):
    """A row or a case."""

    @property
    def variant(self) -> Variant: ...

    @property
    def fits(self) -> bool: ...


J = TypeVar("J", bound=Judged)


def choose(found: Sequence[J], default: str) -> J | None:
    """The default quantization if it fits, else the largest that does and is smaller, else any."""
    fitting = [one for one in found if one.fits and not one.variant.needs_imatrix]
    most = next((one.variant.size for one in found if one.variant.quant == default), 0)
    smaller = [one for one in fitting if one.variant.size <= most]
    return max(smaller or fitting, key=lambda one: one.variant.size, default=None)


def _case(variant: Variant, question: Question) -> Case:
    shape = shape_of(variant.heads)
    # It sees a text once and whole, and keeps nothing of it.
    encoder = not any(layer.cache or layer.state for layer in shape.layers)
    windows = [layer.window for layer in shape.layers if layer.cache or encoder]
    work = work_of(variant.heads, windows, encoder=encoder)
    try:
        return Case(variant, shape, work, plan(shape, question.devices, question.wish), "")
    except NotEnoughMemory as error:
        return Case(variant, shape, work, _least(shape, question), error.message)


def _least(shape: Shape, question: Question) -> Plan:
    """The plan if the host had plenty of memory, and devices, too, where layers were asked for."""
    wish, asked = question.wish, question.wish.gpu_layers != "auto"
    roomy = [
        replace(device, free=PLENTY) if asked or device.kind == "cpu" else device
        for device in question.devices
    ]
    return plan(shape, roomy, wish)


def _reserved(
    candidates: Candidates, cases: Sequence[Case], question: Question
) -> Iterator[Reserved]:
    """Of each case. Its type changes nothing in it: what lies alike is laid out once."""
    with sparse(candidates.files) as path:
        requests = [_request(path, case, question.wish) for case in cases]
        different = list(dict.fromkeys(requests))
        told = dict(zip(different, dry_run(different, question.rpc)))
    return (told[request] for request in requests)


def _request(path: Path, case: Case, wish: Wish) -> Request:
    asked = request_of(path, wish, case.plan)
    if case.work.output:
        return asked
    context = max(case.plan.context, wish.step_tokens)
    text = msgspec.structs.replace(asked, cells=context, batch=context, sequences=_TEXTS)
    return msgspec.structs.replace(text, outputs=0, pooling=_MEAN, flash=int(context > _LONG))


def _times(cases: Sequence[Case], question: Question, say: Say) -> Times:
    """Of what the CPU alone would run; the others' speed is not known."""
    alone = [case for case in cases if not case.plan.gpu_layers]
    wanted = [one for case in alone for one in operations(case.work, case.plan.kv_type)]
    machine = Machine(question.threads or default_threads())
    return machine.times(wanted, say, again=question.again)


def _row(
    case: Case, reserved: Reserved, times: Times, candidates: Candidates, question: Question
) -> Row:
    variant, made = case.variant, _exact(case.plan, reserved)
    lacks, why = ("memory", case.why) if case.why else ("", "")
    if reserved.error:
        lacks, why = "support", reserved.error
    if variant.disk > candidates.free:
        free = f"{size(candidates.free)} are free in {candidates.folder}"
        lacks, why = "disk", f"{variant.quant} needs {size(variant.disk)} of disk, {free}"
    taken = memory(made, case.shape, variant.heads, reserved.process, times, mmap=question.mmap)
    rate = first = None
    if not made.gpu_layers:
        first = prompt_seconds(case.work, times, made.kv_type, question.prompt)
        if case.work.output:
            rate = 1 / decode_seconds(case.work, times, made.kv_type, question.prompt)
    return Row(variant, made, taken, rate, first, lacks, why)


def _exact(plan: Plan, reserved: Reserved) -> Plan:
    """The plan with buffers of the size that llama.cpp says, if it does."""
    if reserved.error:
        return plan
    exact = reserved.compute | {HOST: reserved.compute.get(HOST, 0) + reserved.output}
    shares = [replace(s, compute=exact.get(s.device, s.compute)) for s in plan.shares]
    return replace(plan, shares=tuple(shares))
