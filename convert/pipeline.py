"""One conversion from folder to file, step by step; each step is a module of its own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from itertools import chain
from pathlib import Path

from convert import metadata, writer
from convert.checkpoint import Checkpoint
from convert.gguf_file import padded
from convert.options import Options
from convert.plan import Plan
from convert.quantize import prepare
from convert.report import Converted, Progress
from convert.stream import chunks

Report = Callable[[Progress], None]


def convert(
    source: Path,
    output: Path,
    options: Options | None = None,
    progress: Report | None = None,
) -> Converted:
    """A checkpoint folder as one GGUF file, which appears at `output` only when it is complete.

    An earlier file at `output` stays as it was until the new one replaces it. Raises
    CheckpointError, UnsupportedModel, UsageError, DiskError or Busy.
    """
    started = time.monotonic()
    options = options or Options()
    source, output = Path(source), Path(output)
    writer.check_output(output, source)
    name = _last_part(options.name or "") or _last_part(source.name) or source.resolve().name
    with closing(Checkpoint(source)) as checkpoint:
        plan = Plan(checkpoint, options.quant, name or "model")
        with writer.locked(output):
            _write(plan, output, options.workers, progress or (lambda _: None))
    return Converted(
        path=output,
        size=output.stat().st_size,
        seconds=time.monotonic() - started,
        tensors=len(plan.jobs),
        parameters=plan.parameters,
        quant=options.quant,
        architecture=plan.family.GGUF,
        warnings=tuple(plan.warnings),
    )


def _last_part(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2]
    return "" if last in (".", "..") else last


def _write(plan: Plan, output: Path, threads: int, progress: Report) -> None:
    front = plan.front
    writer.check_space(output, plan.size)
    prepare({info.type for info in plan.infos})
    total = sum(job.source_bytes for job in plan.jobs)
    done, digest = 0, hashlib.sha256()
    with writer.PartialFile(output, plan.size) as file:
        file.write(bytes(len(front)))
        for chunk in chunks(chain.from_iterable(job.pieces for job in plan.jobs), threads):
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
        file.commit(front.replace(place_of_sum, digest.hexdigest().encode(), 1))
