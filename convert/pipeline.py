"""One conversion from folder to file, step by step; each step is a module of its own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from pathlib import Path

from convert import metadata, streamed, writer
from convert.adapter import Adapter
from convert.checkpoint import Checkpoint
from convert.gguf_file import padded
from convert.lora import MERGE, AdapterPlan
from convert.merge import Merged
from convert.options import Options
from convert.plan import FilePlan, Plan
from convert.quantize import prepare
from convert.quants import ADAPTER_TYPE
from convert.remote import Remote
from convert.report import Converted, Progress, Report
from convert.stream import chunks
from portable.errors import UsageError


def convert(
    source: Path,
    output: Path,
    options: Options | None = None,
    progress: Report | None = None,
    *,
    adapter: Path | None = None,
    remote: Sequence[Remote] = (),
) -> Converted:
    """A checkpoint folder as one GGUF file, which appears at `output` only when it is complete.

    `adapter` is the folder of a LoRA that is merged into the weights while they are read. `remote`
    are weights that are not in the folder: they are converted while they stream, are never stored,
    and may raise NetworkError; the same call then goes on where it was. An earlier file at `output`
    stays as it was until the new one replaces it. Raises CheckpointError,
    UnsupportedModel, UsageError, DiskError or Busy.
    """
    started = time.monotonic()
    options = options or Options()
    source, output = Path(source), Path(output)
    writer.check_output(output, source)
    with opened(source, adapter, remote) as checkpoint:
        plan = Plan(checkpoint, options, name_of(options, source))
        return _run(plan, output, options, progress, started)


@contextmanager
def opened(
    source: Path, adapter: Path | None = None, remote: Sequence[Remote] = ()
) -> Iterator[Checkpoint]:
    """A checkpoint, with an adapter merged into it if there is one."""
    with ExitStack() as stack:
        if adapter:
            trained = stack.enter_context(closing(Adapter(adapter)))
            checkpoint: Checkpoint = Merged(source, trained, remote)
        else:
            checkpoint = Checkpoint(source, remote)
        stack.enter_context(closing(checkpoint))
        yield checkpoint


def convert_adapter(
    source: Path,
    base: Path,
    output: Path,
    options: Options | None = None,
    progress: Report | None = None,
) -> Converted:
    """A LoRA adapter's folder as a GGUF adapter. Of the `base` only config.json is read.

    Raises what `convert` raises, and CheckpointError for an adapter of another model.
    """
    started = time.monotonic()
    options = options or Options(quant=ADAPTER_TYPE)
    if options.imatrix:
        raise UsageError("an adapter takes no importance matrix", hint=MERGE, param="imatrix")
    source, output = Path(source), Path(output)
    writer.check_output(output, source)
    with closing(Adapter(source)) as adapter:
        config = Checkpoint(base).config
        plan = AdapterPlan(adapter, config, options.quant, name_of(options, source))
        return _run(plan, output, options, progress, started)


def _run(
    plan: FilePlan, output: Path, options: Options, progress: Report | None, started: float
) -> Converted:
    remote = bool(plan.checkpoint.remote)
    write = streamed.write if remote else _write
    with writer.locked(output, resume=remote):
        write(plan, output, options, progress or (lambda _: None))
    return Converted(
        path=output,
        name=plan.keys["portable.source"][1],
        size=output.stat().st_size,
        seconds=time.monotonic() - started,
        tensors=len(plan.jobs),
        parameters=plan.parameters,
        quant=options.quant,
        architecture=plan.family.GGUF,
        warnings=tuple(plan.warnings),
        measured=plan.measured,
    )


def name_of(options: Options, source: Path) -> str:
    last = _last_part(options.name or "") or _last_part(source.name) or source.resolve().name
    return last or "model"


def _last_part(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2]
    return "" if last in (".", "..") else last


def _write(plan: FilePlan, output: Path, options: Options, progress: Report) -> None:
    front = plan.front
    writer.check_space(output, plan.size)
    prepare({info.type for info in plan.infos})
    total = sum(job.source_bytes for job in plan.jobs)
    done, digest = 0, hashlib.sha256()
    with writer.PartialFile(output, plan.size) as file:
        file.write(bytes(len(front)))
        for chunk in chunks(chain.from_iterable(job.pieces for job in plan.jobs), options.workers):
            file.write(chunk.data.data)
            digest.update(chunk.data.data)
            if chunk.last:
                info = chunk.job.info
                gap = bytes(padded(info.bytes) - info.bytes)
                file.write(gap)
                digest.update(gap)
            done += chunk.source_bytes
            progress(Progress("convert", done, total, chunk.job.info.name))
        plan.checkpoint.check_unchanged()
        progress(Progress("save", total, total, ""))
        place_of_sum = metadata.SHA256_PLACE.encode()
        front = front.replace(place_of_sum, digest.hexdigest().encode(), 1)
        file.commit(front, lambda path: options.accept(path, plan.checkpoint.folder))
