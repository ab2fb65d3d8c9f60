"""llama.cpp's splitter of the name that is chosen splits text as tokenizer.json's steps do.

Seen through random merges that would join any two neighbours: a boundary that only one of the two
has leaves other tokens.
"""

from __future__ import annotations

import ctypes
import json
import random
import re
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import tokenizers
from tiny_tokenizers import BYTE_LEVEL, byte_alphabet, write_json, write_tokenizer

from convert.checkpoint import Checkpoint
from convert.gguf_file import head
from convert.metadata import tokenizer_keys
from convert.vocab import read_vocab
from convert.vocab.pre import SPLITTERS, WHOLE_WORDS, Steps

TEXTS = {
    "english": "Hello world! I've 12345 apples, don't YOU'LL see?  We'Re 3.14  'tis\n\n\tend.",
    "code": "def f(x):\n        return x**2 # ok\r\n\tif a[0]!='b' && c->d {}\n\n\n}  // a.b/c?d=1",
    "chinese": "我想在 apple 工作1314151天～你好，世界。「引用」（括号）！\n第2章：测试…",
    "japanese": "これはテストです。カタカナとひらがな、漢字123。\n次の行",
    "korean": "안녕하세요 세계! 한국어 123 테스트.\n",
    "russian": "привет мир, это тест 2024 года — «цитата».\n",
    "accents": "naïve café déjà-vu über straße ñandú 100€ ½ ²\n",
    "emoji": "🚀 (normal) 😶\u200d🌫️ ✅ 🦙🦙 end",
    "spaces": "a  b   c    d \t\tg \n \n  h \r\n\r\n   i   ",
    "wide spaces": "a \u00a0b\u3000c\u2003 d\u00a0\n",
    "marks": "हिन्दी में नमस्ते ภาษาไทย नीचे\n",
    "arabic": "مرحبا بالعالم، هذا نص عربي.\n",
    "wide digits": "١٢٣ ٤٥ ２０２４年\n",
    "capitals": "ПриВет МИР ÉCOLE École ÜBER HelloWorld XMLHttpRequest camelCase\n",
    "digits": "1 12 123 1234 12345 1.000.000,00 v2 0x1F\n",
}
BEHAVIOURS = {"Split": ("Isolated", False), "Matches": ("Removed", True)}
DIGITS = re.compile(r"\d\d")
# Where llama.cpp's own splitters are not quite the tokenizers': GPT-4o's and Tekken's take marks
# for no letters and know the cases of ASCII only, DeepSeek's know narrow spaces only. (Parts of
# wide digits may be joined here, which `merges_of` does not see.)
LIMITS = {
    "tekken": {"marks", "capitals"},
    "gpt-4o": {"marks", "capitals"},
    "deepseek-llm": {"wide spaces", "wide digits"},
    "deepseek-coder": {"wide spaces"},
}


def steps_of(steps: Steps) -> dict[str, Any]:
    """The pre-tokenizer of tokenizer.json that has these steps."""
    made: list[dict[str, Any]] = []
    for kind, detail in steps:
        if kind in BEHAVIOURS:
            behavior, invert = BEHAVIOURS[kind]
            step = {"type": "Split", "pattern": {"Regex": detail}}
            made.append({**step, "behavior": behavior, "invert": invert})
        elif kind == "Digits":
            made.append({"type": kind, "individual_digits": detail})
        else:
            made.append({**BYTE_LEVEL, "use_regex": detail})
    return {"type": "Sequence", "pretokenizers": made}


def joins_digits(pair: tuple[bytes, bytes]) -> bool:
    return bool(DIGITS.search(b"".join(pair).decode("utf-8", "ignore")))


def merges_of(text: str, seed: int) -> list[str]:
    """Merges, in a random order, that join a text into one token, but for neighbouring digits.

    DeepSeek's first splitter takes digits apart and llama.cpp's does not: a vocabulary trained with
    it has no token in which they would be joined.
    """
    alphabet, rng = byte_alphabet(), random.Random(seed)
    parts, merges = [bytes([byte]) for byte in text.encode()], []
    while pairs := [pair for pair in pairwise(parts) if not joins_digits(pair)]:
        pair = rng.choice(pairs)
        merges.append(" ".join("".join(alphabet[byte] for byte in part) for part in pair))
        old, parts = parts, []
        while old:
            taken = 2 if tuple(old[:2]) == pair else 1
            parts.append(b"".join(old[:taken]))
            old = old[taken:]
    return merges


def write(folder: Path, steps: Steps, merges: list[str], whole: bool) -> int:
    """A tokenizer's files; how many tokens it has."""
    ordered = ["<s>", *byte_alphabet(), *(merge.replace(" ", "") for merge in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(ordered))}
    write_tokenizer(folder, vocab, merges, [0], steps_of(steps), None)
    write_json(folder / "config.json", {"architectures": ["LlamaForCausalLM"]})
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "<s>"})
    found = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    found["model"]["ignore_merges"] = whole
    write_json(folder / "tokenizer.json", found)
    return len(vocab)


def llama_ids(keys: dict[str, Any], path: Path, text: str) -> list[int]:
    path.write_bytes(head({"general.architecture": ("string", "llama")} | keys, []))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    nowhere = ctypes.c_void_p()  # other tests leave workers behind, of which none may be asked
    params.devices = ctypes.addressof(nowhere)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model
    try:
        vocab, data = llama_cpp.llama_model_get_vocab(model), text.encode()
        ids = (ctypes.c_int32 * len(data))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), False, False)
        return list(ids[:count])
    finally:
        llama_cpp.llama_model_free(model)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """llama_cpp's own logger stumbles over tokens that are parts of characters."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    yield
    llama_cpp.llama_log_set(llama_cpp._logger.llama_log_callback, None)


SPLIT = [(name, steps, False) for steps, name in SPLITTERS.items()]
SPLIT += [(WHOLE_WORDS[name], steps, True) for name, steps, _ in SPLIT if name in WHOLE_WORDS]
CASES = {
    f"{name}-{steps[0][0]}-{text}": (name, steps, whole, text)
    for name, steps, whole in SPLIT
    for text in TEXTS.keys() - LIMITS.get(name, set())
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_splits_alike(case: str, tmp_path: Path) -> None:
    name, steps, whole, language = CASES[case]
    text = TEXTS[language]
    for seed in range(3):
        size = write(tmp_path, steps, merges_of(text, seed), whole)
        with closing(Checkpoint(tmp_path)) as checkpoint:
            vocab = read_vocab(checkpoint, "qwen", size, {})
        assert vocab.pre == name
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        wanted = theirs.encode(text, add_special_tokens=False).ids
        assert llama_ids(tokenizer_keys(vocab), tmp_path / "vocab.gguf", text) == wanted
