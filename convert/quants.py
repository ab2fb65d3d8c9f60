"""Names of quantizations; knows no tensor, no file and no native code.

The numbers are those of llama.cpp's `llama_ftype`: GGUF files hold them.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from portable.errors import UsageError
from portable.tensortype import TYPES


class Quant(NamedTuple):
    """`ftype` is the file type written into the GGUF, `type` what most tensors get."""

    name: str
    ftype: int
    type: str

    @property
    def quantized(self) -> bool:
        return TYPES[self.type].block > 1


QUANTS = {
    row[0]: Quant(*row)
    for row in (
        ("F32", 0, "F32"),
        ("F16", 1, "F16"),
        ("BF16", 32, "BF16"),
        ("Q8_0", 7, "Q8_0"),
        ("Q6_K", 18, "Q6_K"),
        ("Q5_K_M", 17, "Q5_K"),
        ("Q5_K_S", 16, "Q5_K"),
        ("Q5_1", 9, "Q5_1"),
        ("Q5_0", 8, "Q5_0"),
        ("Q4_K_M", 15, "Q4_K"),
        ("Q4_K_S", 14, "Q4_K"),
        ("Q4_1", 3, "Q4_1"),
        ("Q4_0", 2, "Q4_0"),
        ("IQ4_NL", 25, "IQ4_NL"),
        ("IQ4_XS", 30, "IQ4_XS"),
        ("MXFP4_MOE", 38, "MXFP4"),
        ("Q3_K_L", 13, "Q3_K"),
        ("Q3_K_M", 12, "Q3_K"),
        ("Q3_K_S", 11, "Q3_K"),
        ("IQ3_M", 27, "IQ3_S"),
        ("IQ3_S", 26, "IQ3_S"),
        ("IQ3_XS", 22, "IQ3_S"),
        ("IQ3_XXS", 23, "IQ3_XXS"),
        ("Q2_K", 10, "Q2_K"),
        ("Q2_K_S", 21, "Q2_K"),
        ("Q2_0", 41, "Q2_0"),
        ("Q1_0", 40, "Q1_0"),
        ("IQ2_M", 29, "IQ2_S"),
        ("IQ2_S", 28, "IQ2_XS"),
        ("IQ2_XS", 20, "IQ2_XS"),
        ("IQ2_XXS", 19, "IQ2_XXS"),
        ("IQ1_M", 31, "IQ1_M"),
        ("IQ1_S", 24, "IQ1_S"),
        ("TQ2_0", 37, "TQ2_0"),
        ("TQ1_0", 36, "TQ1_0"),
    )
}

# What takes types that are noise without an importance matrix, wherever rows divide by 256.
GUIDED = ("Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")

# Small enough for a laptop, and still close to the original.
DEFAULT_QUANT = "Q4_K_M"
ADAPTER_TYPE = "F32"  # as llama.cpp's converter of adapters, unless told otherwise
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "FP32": "F32", "FP16": "F16"}


def bits(quant: str) -> float:
    """Bits that most of a model's values take; the whole file is a little larger."""
    kind = TYPES[QUANTS[quant].type]
    return 8 * kind.bytes / kind.block


def quant_names() -> list[str]:
    """Every name that `quant_name` returns, large files first."""
    return list(QUANTS)


def quant_name(text: str) -> str:
    """The canonical name of a quantization written in any case, or by an alias."""
    name = text.strip().upper().replace("-", "_")
    name = ALIASES.get(name, name)
    if name in QUANTS:
        return name
    near = difflib.get_close_matches(name, QUANTS, n=4, cutoff=0.5) or [
        DEFAULT_QUANT,
        "Q8_0",
        "F16",
    ]
    raise UsageError(
        f"unknown quantization {text!r}", hint=f"near it: {', '.join(near)}", param="quant"
    )


def default_output_name(name: str, quant: str) -> str:
    """`Qwen/Qwen2.5-0.5B-Instruct`, `q4_k_m` -> `Qwen2.5-0.5B-Instruct-Q4_K_M.gguf`."""
    last = name.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return f"{last or 'model'}-{quant_name(quant)}.gguf"
