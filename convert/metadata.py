"""What a GGUF says about its model: names, licence, sizes, tokenizer; knows no weights' values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import gguf

from convert.arch.table import Family
from convert.checkpoint import Checkpoint
from convert.config import Config, is_number
from convert.gguf_file import Info, KeyValues, storable
from convert.quants import Quant
from convert.vocab import Vocab
from portable.errors import CheckpointError
from portable.gguf import CHECKSUM

QUANTIZATION_VERSION = 2
CARD = "README.md"
MAX_CARD = 1 << 20  # characters and entries between its lines of three dashes
SHA256_PLACE = "0" * 64
POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
POOLING_FLAGS = (
    ("pooling_mode_mean_tokens", 1),
    ("pooling_mode_cls_token", 2),
    ("pooling_mode_lasttoken", 3),
)


class Parameters(NamedTuple):
    """How many values: in all, outside the experts, and in one expert of each kind and layer."""

    total: int
    shared: int
    expert: int
    experts: int


def count_parameters(infos: Iterable[Info]) -> Parameters:
    shared = expert = experts = 0
    for info in infos:
        size = math.prod(info.shape)
        if "_exps." in info.name and len(info.shape) == 3:
            experts = info.shape[0]
            expert += size // experts
        else:
            shared += size
    return Parameters(shared + expert * experts, shared, expert, experts)


def general(
    checkpoint: Checkpoint, name: str, parameters: Parameters, warnings: list[str]
) -> KeyValues:
    """`general.*`, by gguf's own reading of the model card, config and the repository's name.

    An adapter's `parameters` are negative: it gets no size label. A model card is free text:
    what cannot be stored is left out, and said in `warnings`.
    """
    card = read_card(checkpoint, warnings)
    config = {k: v for k, v in checkpoint.config.items() if k != "_name_or_path" or _is_text(v)}
    found = gguf.Metadata()
    _sampling(found, checkpoint)
    found = gguf.Metadata.apply_metadata_heuristic(
        found, card, config, PurePosixPath(name), parameters.total
    )
    if found.name is None:
        found.name = name
    if found.size_label is None and parameters.total > 0:
        found.size_label = gguf.size_label(*parameters)
    writer = gguf.GGUFWriter(None, "")
    try:
        found.set_gguf_meta_model(writer)
    except (TypeError, AttributeError, KeyError) as error:
        warnings.append(f"the model card is not used: {error}")
        writer = gguf.GGUFWriter(None, "")
        writer.add_name(name)
    plain = {key: _plain(value) for key, value in writer.kv_data[0].items()}
    usable = {key: value for key, value in plain.items() if storable(*value)}
    warnings += [f"{key} is left out: {plain[key][1]!r:.60}" for key in plain.keys() - usable]
    return {key: value for key, value in usable.items() if _says_something(key, value[1])}


def keys(
    checkpoint: Checkpoint, family: Family, config: Config, vocab: Vocab, head: KeyValues
) -> KeyValues:
    """All keys but the file type, in llama.cpp's order. `head` is what `general` returned."""
    out: KeyValues = {
        "general.architecture": ("string", family.GGUF),
        "general.type": ("string", "model"),
        **head,
    }
    for key, kind, value in family.metadata(config):
        out[key if key.startswith("tokenizer.") else f"{family.GGUF}.{key}"] = (kind, value)
    if family.GGUF != "llama" and (pooling := _pooling(checkpoint)):
        out.setdefault(f"{family.GGUF}.pooling_type", ("uint32", pooling))
    return out | tokenizer_keys(vocab)


def tokenizer_keys(vocab: Vocab) -> KeyValues:
    out: KeyValues = {key: _guess(value) for key, value in vocab.leading.items()}
    out["tokenizer.ggml.model"] = ("string", vocab.model)
    out["tokenizer.ggml.pre"] = ("string", vocab.pre)
    out["tokenizer.ggml.tokens"] = ("strings", vocab.tokens)
    if vocab.scores:
        out["tokenizer.ggml.scores"] = ("float32s", vocab.scores)
    out["tokenizer.ggml.token_type"] = ("int32s", vocab.types)
    if vocab.merges:
        out["tokenizer.ggml.merges"] = ("strings", vocab.merges)
    return out | {key: _guess(value) for key, value in vocab.keys.items()}


def recipe(quant: Quant, source: str) -> KeyValues:
    """How this file was made. No time and no path: the same input gives the same bytes."""
    return {
        "general.quantization_version": ("uint32", QUANTIZATION_VERSION),
        "general.file_type": ("uint32", quant.ftype),
        "portable.version": ("string", _version()),
        "portable.source": ("string", source),
        "portable.quantization": ("string", quant.name),
        CHECKSUM: ("string", SHA256_PLACE),
    }


def _version() -> str:
    try:
        return version("portable-llm")
    except PackageNotFoundError:
        return "0"


def read_card(checkpoint: Checkpoint, warnings: list[str]) -> dict[str, Any]:
    """The front matter of README.md; a broken one is worth a warning, not the conversion."""
    try:
        text = checkpoint.text(CARD) or ""
        if len(text.partition("\n---")[0]) > MAX_CARD:
            raise ValueError("its head is too large")
        found = gguf.Metadata.load_model_card(checkpoint.folder)
        if not _is_small(found):
            raise ValueError("it says too much")
    except Exception as error:  # YAML has many ways to be wrong
        words = (str(error) or type(error).__name__).splitlines()[0]
        warnings.append(f"{CARD} is not used: {words}")
        return {}
    return found if isinstance(found, dict) else {}


def _is_small(value: Any) -> bool:
    """YAML's references make a few lines mean billions of entries, or a list that holds itself."""
    waiting, seen = [value], 0
    while waiting and seen + len(waiting) < MAX_CARD:
        value = waiting.pop()
        seen += len(value) if isinstance(value, str) else 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return not waiting


def _sampling(found: Any, checkpoint: Checkpoint) -> None:
    """The publisher's own sampling defaults, as generation_config.json gives them."""
    settings = checkpoint.json("generation_config.json") or {}
    sources = {
        "top_k": ("top_k",),
        "top_p": ("top_p",),
        "min_p": ("min_p",),
        "temp": ("temperature",),
        "penalty_repeat": ("penalty_repeat", "repetition_penalty"),
    }
    for target, names in sources.items():
        value = next((settings[name] for name in names if name in settings), None)
        if is_number(value):
            setattr(found, f"sampling_{target}", value)


def _pooling(checkpoint: Checkpoint) -> int | None:
    """The pooling type of a sentence-transformers folder; None where there is no such module."""
    modules = checkpoint.any_json("modules.json")
    if not isinstance(modules, list):
        return None
    paths = [
        str(m.get("path"))
        for m in modules
        if isinstance(m, dict) and str(m.get("type")).endswith("Pooling")
    ]
    if not paths:
        return None
    if ".." in paths[0] or paths[0].startswith(("/", "\\")):
        raise CheckpointError(f"modules.json names {paths[0]!r}, which is outside the checkpoint")
    settings = checkpoint.json(f"{paths[0]}/config.json") or {}
    for flag, number in POOLING_FLAGS:
        if settings.get(flag):
            return number
    mode = settings.get("pooling_mode")
    if mode in POOLING:
        return POOLING[mode]
    raise CheckpointError(f"{paths[0]}/config.json: only mean, cls and last-token pooling work")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _says_something(key: str, value: Any) -> bool:
    return key != "general.architecture" and value not in ("", [])


def _plain(value: Any) -> tuple[str, Any]:
    """A gguf.GGUFValue as a kind and a value."""
    kind, found = value.type.name.lower(), value.value
    if kind == "array":
        return "strings", [str(entry) for entry in found]
    if kind == "int32" and isinstance(found, float) and found.is_integer():
        return kind, int(found)
    return kind, found


def _guess(value: Any) -> tuple[str, Any]:
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        return "uint32", value
    if isinstance(value, bytes):
        return "uint8s", value
    return ("strings", value) if isinstance(value, list) else ("string", value)
