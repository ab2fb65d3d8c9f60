"""Which of llama.cpp's pre-tokenizers splits text as tokenizer.json does; knows no vocabulary.

Decided from the structure of the file and not from a hash of a sample, so a fine-tune that adds
tokens converts like its base model.
"""

from __future__ import annotations

import json
from typing import Any

from convert.vocab.tokenizer_json import Tokenizer
from portable.errors import UnsupportedModel

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
REGEXES = {
    rf"{CONTRACTIONS}|{WORD}|\p{{N}}|{REST}": "qwen2",
    rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{REST}": "llama-bpe",
    (
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "qwen35",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "tekken",
}
# The same words written out letter by letter, as some exporters do.
SPELLED = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
DEEPSEEK_BOS = "<｜begin▁of▁sentence｜>"


def pre_tokenizer(tokenizer: Tokenizer) -> str:
    """The name for `tokenizer.ggml.pre`; UnsupportedModel when no splitter of llama.cpp matches."""
    steps = tuple(_steps(tokenizer.json.get("pre_tokenizer")))
    if steps == (("ByteLevel", True),):
        return "gpt-2"
    if steps == (("Digits", True), ("ByteLevel", True)):
        return "smollm"
    if len(steps) == 2 and steps[0][0] == "Split" and steps[1] == ("ByteLevel", False):
        name = REGEXES.get(str(steps[0][1]).replace(SPELLED, CONTRACTIONS))
        if name == "qwen2" and DEEPSEEK_BOS in json.dumps(
            tokenizer.json.get("post_processor"), ensure_ascii=False
        ):
            return "deepseek-r1-qwen"
        if name:
            return name
    shown = ", ".join(f"{kind} {detail}" for kind, detail in steps) or "nothing"
    raise UnsupportedModel(
        f"no pre-tokenizer of llama.cpp splits text as this tokenizer does ({shown:.300})",
        hint="report the model's name; a GGUF of it converted elsewhere may work",
    )


def _steps(entry: Any) -> list[tuple[str, Any]]:
    """(type, what matters of it) of each step, sequences flattened."""
    if not isinstance(entry, dict):
        return []
    kind = str(entry.get("type"))
    if kind == "Sequence":
        return [step for part in entry.get("pretokenizers") or [] for step in _steps(part)]
    if kind == "Split":
        pattern = entry.get("pattern") or {}
        plain = entry.get("behavior") == "Isolated" and not entry.get("invert")
        return [("Split" if plain else "Split otherwise", pattern.get("Regex", pattern))]
    if kind == "Digits":
        return [(kind, bool(entry.get("individual_digits")))]
    if kind == "ByteLevel":
        # `add_prefix_space` would put a space before the text, which llama.cpp does not.
        return [(kind, bool(entry.get("use_regex", True)))]
    return [(kind, "")]
