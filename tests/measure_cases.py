"""What `portable.measure` is given, and by tests/golden/measure.py llama.cpp's own tools."""

from __future__ import annotations

from pathlib import Path

from checkpoints import tiny

from convert import Options, convert

CONTEXT, CHUNKS = 64, 5
TEXT = "".join(
    f"In year {1900 + 7 * n} somebody wrote {n * n} letters, 写了{n}封信, and f(x) = {n} * x + 1.\n"
    for n in range(40)
)
# A plain one; one with experts; one whose tokenizer puts a token before each text.
FAMILIES = ("qwen3", "mixtral", "mistral")


def models(folder: Path, family: str) -> tuple[Path, Path]:
    """The model in F32 and in Q4_0."""
    checkpoint = tiny(folder / family, family)
    made = folder / f"{family}-F32.gguf", folder / f"{family}-Q4_0.gguf"
    for path, quant in zip(made, ("F32", "Q4_0")):
        convert(checkpoint, path, Options(quant=quant))
    return made
