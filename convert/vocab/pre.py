"""Which of llama.cpp's pre-tokenizers splits text as tokenizer.json does; knows no vocabulary.

Decided from the structure of the file and not from a hash of a sample, so a fine-tune that adds
tokens converts like its base model.
"""

from __future__ import annotations

import json
from typing import Any

from convert.vocab.tokenizer_json import Tokenizer, flattened
from portable.errors import UnsupportedModel

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
LOWER_END = rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+"
UPPER_START = rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*"
PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{REST}"
# Splitters of one regex, whose matches and whose gaps are words.
REGEXES = {
    rf"{CONTRACTIONS}|{WORD}|\p{{N}}|{REST}": "qwen2",
    LLAMA3: "dbrx",
    (
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "qwen35",
    rf"{LOWER_END}|{UPPER_START}|\p{{N}}|{PATHS}": "tekken",
    (rf"{LOWER_END}{CONTRACTIONS}?|{UPPER_START}{CONTRACTIONS}?|\p{{N}}{{1,3}}|{PATHS}"): "gpt-4o",
    (
        rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1}}"
        r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "seed-coder",
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ): "bailingmoe",
    (
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
    ): "exaone-moe",
    rf"{WORD}|\p{{N}}|{REST}": "ufakzeka",
    r" ?[^(\s|[.,!?…。，、।۔،])]+": "bloom",
}
# DeepSeek's first splitter: letters of scripts that have cases, ASCII and wide punctuation, CJK.
CASED = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ"
    r"-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-"
    r"ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
CJK = "[一-龥ࠀ-一가-퟿]+"
MIXED = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS, BYTES, GPT2 = ("Digits", True), ("ByteLevel", False), ("ByteLevel", True)
Steps = tuple[tuple[str, Any], ...]


def _splits(*regexes: str) -> Steps:
    return tuple(("Split", regex) for regex in regexes)


# "Split" makes words of a regex's matches and gaps, "Matches" drops the gaps: that is the same
# where a regex ends with any white space, because it matches all that is none before.
SPLITTERS: dict[Steps, str] = {
    (GPT2,): "gpt-2",
    (DIGITS, GPT2): "smollm",
    **{(*_splits(regex), BYTES): name for regex, name in REGEXES.items()},
    **{(("Matches", r), BYTES): name for r, name in REGEXES.items() if r.endswith(r"|\s+")},
    (*_splits(r"[\r\n]", CASED, PUNCTUATION, r"\s+$", CJK), DIGITS, BYTES): "deepseek-llm",
    (*_splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK), DIGITS, BYTES): "deepseek-coder",
    (*_splits(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", MIXED), BYTES): "deepseek-v3",
}
# The same splitter for tokenizers that take a word whole when it is a token, whatever the merges.
WHOLE_WORDS = {"dbrx": "llama-bpe"}
# Other spellings in files: letter by letter, and line ends as they are.
SPELLINGS = (
    (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", CONTRACTIONS),
    ("\r", r"\r"),
    ("\n", r"\n"),
)
BEHAVIOURS = {("Isolated", False): "Split", ("Removed", True): "Matches"}
DEEPSEEK_BOS = "<｜begin▁of▁sentence｜>"


def pre_tokenizer(tokenizer: Tokenizer) -> str:
    """The name for `tokenizer.ggml.pre`; UnsupportedModel when no splitter of llama.cpp matches."""
    steps = tuple(map(_step, flattened(tokenizer.json.get("pre_tokenizer"))))
    name = SPLITTERS.get(steps, "")
    if tokenizer.model.get("ignore_merges"):
        name = WHOLE_WORDS.get(name, name)
    post = json.dumps(tokenizer.json.get("post_processor"), ensure_ascii=False)
    if name == "qwen2" and DEEPSEEK_BOS in post:
        return "deepseek-r1-qwen"
    if name:
        return name
    shown = ", ".join(f"{kind} {detail}" for kind, detail in steps) or "nothing"
    raise UnsupportedModel(
        f"no pre-tokenizer of llama.cpp splits text as this tokenizer does ({shown:.300})",
        hint="report the model's name; a GGUF of it converted elsewhere may work",
    )


def _step(entry: dict[str, Any]) -> tuple[str, Any]:
    """A step's type, and what matters of it."""
    kind = str(entry.get("type"))
    if kind == "Split":
        found = (str(entry.get("behavior")), bool(entry.get("invert")))
        regex = str((entry.get("pattern") or {}).get("Regex"))
        for spelling, usual in SPELLINGS:
            regex = regex.replace(spelling, usual)
        return BEHAVIOURS.get(found, f"Split {found}"), regex
    if kind == "Digits":
        return kind, bool(entry.get("individual_digits"))
    if kind == "ByteLevel":
        # `add_prefix_space` would put a space before the text, which llama.cpp does not.
        return kind, bool(entry.get("use_regex", True))
    return kind, ""
