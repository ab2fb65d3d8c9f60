"""A LoRA adapter as a GGUF file for llama.cpp: each pair of matrices under its weight's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convert import metadata
from convert.adapter import Adapter, Update
from convert.arch import FAMILIES, check_config
from convert.arch.table import Placed, Row, canonical, filled, sources_of
from convert.config import Config
from convert.gguf_file import Info
from convert.merge import EMBEDDING, HEAD, WRONG, mismatch
from convert.part import Floats, Integers, Part
from convert.plan import FilePlan, file_order
from convert.quants import ADAPTER_TYPE, QUANTS
from convert.stream import Job
from portable.errors import CheckpointError, UnsupportedModel, UsageError
from portable.tensortype import TYPES

TOKEN_EMBEDDING = "token_embd.weight"
# llama.cpp computes the latent attention of these without asking an adapter.
LATENT = ("deepseek2", "minicpm3")
STORED_AS = (ADAPTER_TYPE, "F16", "BF16")
MERGE = "use --merge, which writes the whole trained model"


class AdapterPlan(FilePlan):
    """Everything about the adapter's file but its values. `base` is the model's config.json.

    Raises CheckpointError for an adapter of another model.
    """

    def __init__(self, adapter: Adapter, base: Mapping[str, Any], quant: str, name: str) -> None:
        if quant not in STORED_AS:
            raise UsageError(
                f"an adapter is stored as {', '.join(STORED_AS)}, not as {quant}",
                hint=MERGE,
                param="quant",
            )
        self.checkpoint = adapter
        self.family = FAMILIES[check_config(base)]
        config = Config(base, self.family.DEFAULTS)
        adapter.open_tensors()
        updates = {canonical(n, self.family.RENAMED): u for n, u in adapter.updates.items()}
        _refuse_more_than_pairs(adapter, updates, tied=config.tied)
        rows, sizes = self.family.rows(config), self.family.sizes(config)
        placed = list(_place(updates, rows, sizes, adapter.alpha))
        _refuse_ignored(self.family.GGUF, placed)
        self.jobs = [
            Job(Info(tensor.name, tensor.shape, TYPES[quant]), tensor.parts)
            for tensor in sorted(placed, key=lambda tensor: file_order(tensor.name))
        ]
        self.warnings = []
        self.parameters = sum(update.rank * sum(update.shape) for update in updates.values())
        counted = metadata.Parameters(-self.parameters, 0, 0, 0)
        general = metadata.general(adapter, name, counted, self.warnings)
        recipe = metadata.recipe(QUANTS[quant], name)
        del recipe["general.file_type"]  # which llama.cpp's converter does not write here
        self.keys = {
            "general.architecture": ("string", self.family.GGUF),
            "general.type": ("string", "adapter"),
            "adapter.type": ("string", "lora"),
            **general,
            "adapter.lora.alpha": ("float32", adapter.alpha),
            **recipe,
        }
        self.check_keys()


def _refuse_more_than_pairs(adapter: Adapter, updates: Mapping[str, Update], tied: bool) -> None:
    """What a file of pairs cannot say; llama.cpp would ignore it, or abort."""
    # PEFT saves embeddings that nobody trained, as base layers.
    whole = [t.name for t in adapter.full.values() if not t.name.endswith(".base_layer.weight")]
    dora = [name for name, update in updates.items() if update.magnitude]
    shared = sorted(updates.keys() & {EMBEDDING, HEAD}) if tied else []
    for names, what in (
        (whole, "is trained whole, not as a pair of matrices"),
        (dora, "is trained with DoRA"),
        (shared, "is trained alone, and the base uses it for its input and its output"),
    ):
        if names:
            raise UnsupportedModel(f"{names[0]} {what}: no GGUF adapter can say that", hint=MERGE)


def _place(
    updates: Mapping[str, Update], rows: Sequence[Row], sizes: Mapping[str, int], alpha: float
) -> Iterator[Placed]:
    """Two tensors for each weight of the GGUF that was trained."""
    used: set[str] = set()
    for row in filled(rows, sizes["layers"]):
        sources = sources_of(row, sizes)
        found = {name: updates[name] for name in sources if name in updates}
        if not found:
            continue
        used |= found.keys()
        for name, update in found.items():
            wanted = tuple(sizes[dim] for dim in row.dims)
            if update.shape != wanted:
                raise mismatch(name, update.shape, wanted)
        _refuse_row(row, found, len(sources))
        pick = row.pick() if row.pick else None
        for end, parts in (
            ("lora_a", tuple(_a(update) for update in found.values())),
            ("lora_b", tuple(_b(update, pick, alpha) for update in found.values())),
        ):
            shape = parts[0].shape
            stacked = (len(parts), *shape) if "{e}" in row.source else shape
            yield Placed(f"{row.target}.{end}", stacked, parts)
    if left := sorted(updates.keys() - used):
        raise CheckpointError(f"the adapter changes {left[0]}, which the base lacks", hint=WRONG)


def _refuse_row(row: Row, found: Mapping[str, Update], sources: int) -> None:
    updates = list(found.values())
    embedding = row.target == TOKEN_EMBEDDING
    if row.map or row.shape or any(update.embedding != embedding for update in updates):
        what = "is not a linear layer in the GGUF"
    elif len(found) < sources or len({update.rank for update in updates}) > 1:
        what = "is one of several experts, which must all be trained with one rank"
    else:
        return
    raise UnsupportedModel(f"{next(iter(found))} {what}", hint=MERGE)


def _refuse_ignored(arch: str, placed: Sequence[Placed]) -> None:
    for tensor in placed if arch in LATENT else ():
        if ".attn_" in tensor.name and ".attn_output." not in tensor.name:
            raise UnsupportedModel(
                f"llama.cpp adds no adapter to {tensor.name.removesuffix('.lora_a')} of {arch}",
                hint=MERGE,
            )


def _a(update: Update) -> Part:
    """[rank, columns], but [vocabulary, rank] for the embedding, whose rows llama.cpp looks up."""
    if update.embedding:
        return Part(update.a, update.a.shape[::-1], map=np.transpose, whole=True)
    return Part(update.a, update.a.shape)


def _b(update: Update, pick: Integers | None, alpha: float) -> Part:
    """[rows, rank], in the order of the base's rows. llama.cpp will scale it by `alpha` / rank."""
    factor = np.float32(update.scale * update.rank / alpha)

    def scaled(rows: Floats) -> Floats:
        return rows * factor

    rows = update.b.shape[0] if pick is None else len(pick)
    return Part(update.b, (rows, update.rank), pick, None if factor == 1 else scaled)
