"""What a conversion will write, known before any weight is read: keys, tensors, types, sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert import fp8, metadata, mxfp4, rerank
from convert.arch import FAMILIES, check_config
from convert.arch.table import Family, Placed, place
from convert.checkpoint import Checkpoint
from convert.config import Config
from convert.error import Error
from convert.gguf_file import Info, KeyValues, data_size, head, storable
from convert.imatrix import Entry, read_imatrix
from convert.mix import Mix, Shape
from convert.options import Options
from convert.quantize import SOURCE_BYTES
from convert.quants import QUANTS
from convert.report import Measured
from convert.stream import Job
from convert.vocab import read_vocab
from portable.errors import CheckpointError, UnsupportedModel, UsageError
from portable.tensortype import TYPES, TensorType

# What a model ends with that does not end with an output matrix.
HEADS = ("cls.output.weight",)


def check_folder(config: Mapping[str, Any], folder: Path, name: str) -> str:
    """`check_config` of a folder that has a model card perhaps, and no weights yet."""
    return check_config(config, name, metadata.read_card(Checkpoint(folder), []))


class FilePlan:
    """A file whose `keys` and `jobs` are known: what it begins with, and its size."""

    checkpoint: Checkpoint
    family: Family
    parameters: int
    warnings: list[str]
    keys: KeyValues
    jobs: list[Job]
    fallbacks: Mapping[str, str] = {}

    @property
    def infos(self) -> list[Info]:
        return [job.info for job in self.jobs]

    @property
    def front(self) -> bytes:
        """The file's bytes before the tensors, with a place for their checksum."""
        return head(self.keys, self.infos)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.front) + data_size(self.infos)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """All tensors, if their errors were measured on the way; what is only copied has none."""
        if not any(job.error for job in self.jobs):
            return ()
        return tuple(
            Measured(
                job.info.name,
                job.info.type.name,
                job.info.shape,
                job.info.bytes,
                job.error.relative if job.error else 0.0,
                job.error.squares if job.error else 0.0,
                job.error.values if job.error else math.prod(job.info.shape),
                self.fallbacks.get(job.info.name, ""),
            )
            for job in self.jobs
        )

    def check_keys(self) -> None:
        for key, value in self.keys.items():
            if not storable(*value):
                raise CheckpointError(f"{key} holds a value that a GGUF file cannot store")


class Plan(FilePlan):
    """Everything about the file but the values of its tensors; raises for what cannot be made."""

    def __init__(self, checkpoint: Checkpoint, options: Options, name: str) -> None:
        self.checkpoint = checkpoint
        self.quant = QUANTS[options.quant]
        self.measure = options.measure
        self.imatrix = read_imatrix(options.imatrix) if options.imatrix else None
        raw = checkpoint.config
        card = metadata.read_card(checkpoint, [])  # its warnings come with what it is used for
        family = check_config(raw, options.name or name, card)
        if family == "qwen3" and rerank.is_reranker(checkpoint, name):
            family, raw = rerank.FAMILY, raw | rerank.answers(checkpoint)
        self.family = FAMILIES[family]
        self.config = Config(raw, self.family.DEFAULTS)
        sizes = self.family.sizes(self.config)
        checkpoint.open_tensors()
        tensors = mxfp4.with_scales(fp8.with_scales(checkpoint.tensors, raw), raw)
        placed = place(self.family, self.config, tensors)
        self.warnings = []
        if "vision_config" in raw:
            self.warnings.append("the part that sees images is left out: this file reads text only")
        self.jobs = self._jobs(placed, sizes)
        counts = metadata.count_parameters(self.infos)
        self.parameters = counts.total
        vocab = read_vocab(checkpoint, self.family.VOCAB, sizes["vocab"], raw)
        general = metadata.general(checkpoint, name, counts, self.warnings)
        self.keys = metadata.keys(
            checkpoint, self.family, self.config, vocab, general
        ) | metadata.recipe(self.quant, name)
        if not self.quant.quantized and any(job.kept for job in self.jobs):
            # As llama.cpp's converter calls a file whose experts stay as they are.
            self.keys["general.file_type"] = ("uint32", QUANTS["MXFP4_MOE"].ftype)
        if self.imatrix:
            self.keys |= self.imatrix.recipe()
        self.check_keys()

    def _jobs(self, placed: list[Placed], sizes: Mapping[str, int]) -> list[Job]:
        """In llama.cpp's order, because the mix counts tensors as they come."""
        extra = self.family.extra_tensors(self.config)
        found = {tensor.name: tensor for tensor in placed}
        self._check(found)
        self.names = sorted([*found, *extra], key=file_order)
        self.shape = Shape(
            sizes["layers"],
            sizes["heads"],
            sizes["kv_heads"],
            self.family.GGUF,
            "output.weight" not in found,
            sizes.get("experts", 0),
        )
        mix = self.mix(self.quant.name)
        jobs = []
        for name in self.names:
            if name in extra:
                info = Info(name, extra[name].shape, TYPES["F32"])
                jobs.append(Job(info, values=extra[name]))
                continue
            tensor = found[name]
            kept = all(part.is_packed for part in tensor.parts)
            kind = TYPES[mxfp4.NAME] if kept else mix.type_of(name, tensor.shape)
            info = Info(name, tensor.shape, kind)
            error = Error() if self.measure and not kept else None
            jobs.append(Job(info, tensor.parts, None, self._importance(info, mix), error))
        self.fallbacks = mix.fallbacks
        if mix.fallbacks:
            self.warnings.append(
                f"{len(mix.fallbacks)} of {len(jobs)} tensors have rows that {mix.quant.name} "
                "cannot divide: they take a larger type"
            )
        if self.imatrix:
            quantized = [job.info.name for job in jobs if job.info.type.block > 1]
            self.warnings += self.imatrix.left_out(quantized)
        return jobs

    def mix(self, quant: str) -> Mix:
        """Which type each tensor gets, asked for in the order of `names`."""
        return Mix(quant, self.shape, self.names, guided=self.imatrix is not None)

    def types(self, quant: str) -> dict[str, TensorType]:
        """The type that each tensor of the checkpoint would get in another quantization."""
        mix = self.mix(quant)
        return {
            job.info.name: job.info.type if job.kept else mix.type_of(job.info.name, job.info.shape)
            for job in self.jobs
            if job.parts
        }

    def _importance(self, info: Info, mix: Mix) -> Entry | None:
        """The tensor's entry in the importance matrix, which some types cannot do without."""
        quantized = info.type.block > 1
        found = self.imatrix.entry(info.name, info.shape) if self.imatrix and quantized else None
        if found is None and mix.is_blind(info.name, info.type.name):
            lacks = f", and {self.imatrix.file} lacks {info.name}" if self.imatrix else ""
            raise UsageError(
                f"{self.quant.name} needs an importance matrix{lacks}",
                hint="portable imatrix MODEL TEXT makes one for --imatrix; "
                "Q2_K, Q3_K_M and IQ4_XS do without",
                param="imatrix",
            )
        return found

    def _check(self, found: Mapping[str, Placed]) -> None:
        for stored in {part.stored for tensor in found.values() for part in tensor.parts}:
            unscaled = stored.dtype == "F8_E4M3" and stored.scale is None
            if unscaled or stored.dtype not in (mxfp4.NAME, *SOURCE_BYTES):
                raise UnsupportedModel(
                    f"tensor {stored.name} is stored as {stored.dtype}",
                    hint="convert the original model, whose weights are BF16, F16 or F32",
                )
        headless = "output_norm.weight" in found and not {"output.weight", *HEADS} & set(found)
        complete = str(self.checkpoint.config["architectures"][0]).endswith("ForCausalLM")
        embeds = self.checkpoint.has("modules.json")
        if headless and complete and not embeds and not self.config.tied:
            raise CheckpointError(
                "lm_head.weight is missing, and config.json does not tie it to the embedding",
                hint="download the checkpoint again",
            )


def file_order(name: str) -> tuple[int, str]:
    """Tensors outside the layers first, then layer by layer; by name within each."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (int(match[1]) if match else -1), name
