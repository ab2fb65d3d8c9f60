"""One conversion from folder to file, step by step; each step is a module of its own."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from convert import metadata, writer
from convert.arch import FAMILIES, check_config
from convert.arch.table import Family, Placed, place
from convert.checkpoint import Checkpoint
from convert.config import Config
from convert.gguf_file import Info, KeyValues, data_size, head, padded, storable
from convert.mix import Mix, Shape
from convert.quantize import SOURCE_BYTES, prepare
from convert.quants import DEFAULT_QUANT, QUANTS, TYPES, quant_name
from convert.report import Converted, Progress
from convert.stream import Job, chunks
from convert.vocab import read_vocab
from portable.errors import CheckpointError, UnsupportedModel, UsageError

Report = Callable[[Progress], None]


def convert(
    source: Path,
    output: Path,
    *,
    quant: str = DEFAULT_QUANT,
    name: str | None = None,
    threads: int | None = None,
    progress: Report | None = None,
) -> Converted:
    """A checkpoint folder as one GGUF file, which appears at `output` only when it is complete.

    `name` is the model's hub id where the folder is not named like it. An earlier file at `output`
    stays as it was until the new one replaces it. Raises CheckpointError, UnsupportedModel,
    UsageError, DiskError or Busy.
    """
    started = time.monotonic()
    quant = quant_name(quant)
    source, output = Path(source), Path(output)
    writer.check_output(output, source)
    threads = _threads(threads)
    name = _last_part(name or "") or _last_part(source.name) or source.resolve().name or "model"
    with closing(Checkpoint(source)) as checkpoint:
        plan = Plan(checkpoint, quant, name)
        with writer.locked(output):
            plan.write(output, threads, progress or (lambda _: None))
    return Converted(
        path=output,
        size=output.stat().st_size,
        seconds=time.monotonic() - started,
        tensors=len(plan.jobs),
        parameters=plan.parameters,
        quant=quant,
        architecture=plan.family.GGUF,
        warnings=tuple(plan.warnings),
    )


def _last_part(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2]
    return "" if last in (".", "..") else last


def _threads(threads: int | None) -> int:
    if threads is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if not 1 <= threads <= 512:
        raise UsageError(f"threads is {threads}, expected 1 to 512", param="threads")
    return threads


class Plan:
    """Everything that is known before a weight is read: keys, tensors, types and sizes."""

    def __init__(self, checkpoint: Checkpoint, quant: str, name: str) -> None:
        self.checkpoint = checkpoint
        self.quant = QUANTS[quant]
        raw = checkpoint.config
        self.family: Family = FAMILIES[check_config(raw)]
        self.config = Config(raw, self.family.DEFAULTS)
        sizes = self.family.sizes(self.config)
        checkpoint.open_tensors()
        placed = place(self.family, sizes, checkpoint.tensors)
        self.warnings: list[str] = []
        self.jobs = self._jobs(placed, sizes)
        infos = [job.info for job in self.jobs]
        self.parameters = sum(_values(info) for info in infos)
        vocab = read_vocab(checkpoint, self.family.VOCAB, sizes["vocab"], raw)
        general = metadata.general(checkpoint, name, self.parameters, self.warnings)
        self.keys: KeyValues = metadata.keys(
            checkpoint, self.family, self.config, vocab, general
        ) | metadata.recipe(self.quant, name)
        for key, value in self.keys.items():
            if not storable(*value):
                raise CheckpointError(f"{key} holds a value that a GGUF file cannot store")
        self.infos = infos

    def _jobs(self, placed: list[Placed], sizes: Mapping[str, int]) -> list[Job]:
        """In llama.cpp's order, because the mix counts tensors as they come."""
        extra = self.family.extra_tensors(self.config)
        found = {tensor.name: tensor for tensor in placed}
        self._check(found)
        names = sorted([*found, *extra], key=file_order)
        tied = "output.weight" not in found
        shape = Shape(sizes["layers"], sizes["heads"], sizes["kv_heads"], self.family.GGUF, tied)
        mix = Mix(self.quant.name, shape, names)
        jobs = []
        for name in names:
            if name in extra:
                info = Info(name, extra[name].shape, TYPES["F32"])
                jobs.append(Job(info, values=extra[name]))
                continue
            tensor = found[name]
            dims = tensor.stored.shape
            jobs.append(Job(Info(name, dims, mix.type_of(name, dims)), tensor.stored, tensor.turn))
        if mix.fallbacks:
            self.warnings.append(
                f"{len(mix.fallbacks)} of {len(names)} tensors have rows that {mix.quant.name} "
                "cannot divide: they take a larger type"
            )
        return jobs

    def _check(self, found: Mapping[str, Placed]) -> None:
        for tensor in found.values():
            if tensor.stored.dtype not in SOURCE_BYTES:
                raise UnsupportedModel(
                    f"tensor {tensor.stored.name} is stored as {tensor.stored.dtype}",
                    hint="convert the original model, whose weights are BF16, F16 or F32",
                )
        headless = "output_norm.weight" in found and "output.weight" not in found
        complete = str(self.checkpoint.config["architectures"][0]).endswith("ForCausalLM")
        if headless and complete and not self.config.tied:
            raise CheckpointError(
                "lm_head.weight is missing, and config.json does not tie it to the embedding",
                hint="download the checkpoint again",
            )

    def write(self, output: Path, threads: int, progress: Report) -> None:
        front = head(self.keys, self.infos)
        size = len(front) + data_size(self.infos)
        writer.check_space(output, size)
        prepare({info.type for info in self.infos})
        total = sum(job.source_bytes for job in self.jobs)
        done, digest = 0, hashlib.sha256()
        with writer.PartialFile(output, size) as file:
            file.write(bytes(len(front)))
            for chunk in chunks(self.jobs, threads):
                file.write(chunk.data.data)
                digest.update(chunk.data.data)
                if chunk.last:
                    info = chunk.job.info
                    gap = bytes(padded(info.bytes) - info.bytes)
                    file.write(gap)
                    digest.update(gap)
                done += chunk.source_bytes
                progress(Progress("convert", done, total, chunk.job.info.name))
            self.checkpoint.check_unchanged()
            progress(Progress("save", total, total, ""))
            place_of_sum = metadata.SHA256_PLACE.encode()
            file.commit(front.replace(place_of_sum, digest.hexdigest().encode(), 1))


def file_order(name: str) -> tuple[int, str]:
    """Tensors outside the layers first, then layer by layer; by name within each."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (int(match[1]) if match else -1), name


def _values(info: Info) -> int:
    out = 1
    for n in info.shape:
        out *= n
    return out
