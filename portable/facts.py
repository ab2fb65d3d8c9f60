"""What there is to know about one GGUF file from its head; judges nothing, reads no weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.quants import QUANTS
from portable import gguf
from portable.engine.offload.shape import shape_of
from portable.errors import ModelFileError

_FILE_TYPES = {quant.ftype: quant.name for quant in QUANTS.values()}


def of(path: Path) -> dict[str, Any]:
    """Architecture, parameters, quant, size in bytes, context in tokens, and so on.

    What the file does not say is None. Raises ModelFileError, and OSError as it comes.
    """
    heads = gguf.read_all(path)
    keys = heads[0].keys
    architecture = keys.get("general.architecture")
    return {
        "architecture": architecture,
        "parameters": sum(head.parameters for head in heads),
        "quant": keys.get("portable.quantization") or _quant(keys, path),
        "size": gguf.size(path),
        "context": keys.get(f"{architecture}.context_length"),
        "cache_bytes_per_token": _cache_bytes(heads),
        "pre_tokenizer": keys.get("tokenizer.ggml.pre"),
        "template": template(keys.get("tokenizer.chat_template")),
        "licence": keys.get("general.license"),
        "tensors_sha256": keys.get(gguf.CHECKSUM),
    }


def template(text: Any) -> dict[str, bool] | None:
    """What a chat template has a place for, as far as its text tells; None for no template."""
    if not isinstance(text, str) or not text:
        return None
    return {
        "system": bool(re.search(r"""["']system["']|system_message|system_prompt""", text)),
        "tools": bool(re.search(r"\btools\b", text)),
        "thinking": "enable_thinking" in text or "<think>" in text,
    }


def _quant(keys: dict[str, Any], path: Path) -> str | None:
    return _FILE_TYPES.get(keys.get("general.file_type", -1)) or gguf.quant_of(path.name)


def _cache_bytes(heads: Sequence[gguf.Head]) -> int | None:
    """Of an f16 KV cache; None for what has none."""
    try:
        return int(shape_of(heads).cache()) or None
    except ModelFileError:
        return None
