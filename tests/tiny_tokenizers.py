"""Writes the small tokenizers of the tests: byte-level BPE and WordPiece."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.vocab.pre import CASED, CJK, MIXED, PUNCTUATION

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
GPT4O_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_SPLITS = ["[\r\n]", CASED, PUNCTUATION, r"\s+$", CJK]
DEEPSEEK3_SPLITS = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", MIXED]
YES_NO = ["y e", "ye s", "n o"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A text in which every splitter has something to do differently.
PROBE = (
    "Hello world! I've 12345 apples,  don't YOU'LL see?\n\n\tdef f(x):\n        return x ** 2\r\n"
    "我想在 apple 工作1314151天～ 你好，世界。 🚀 😶\u200d🌫️ ✅ نص عربي हिन्दी "
    "Привет café naïve ½ ²   \n   end"
)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    found = json.loads(path.read_text("utf-8"))
    change(found)
    path.write_text(json.dumps(found, ensure_ascii=False), "utf-8")


def write_tokenizer(
    folder: Path,
    vocab: dict[str, int],
    merges: list[str],
    special: list[int],
    pre: dict[str, Any],
    normalizer: dict[str, Any] | None,
) -> None:
    """A byte-level BPE tokenizer.json."""
    by_id = {i: token for token, i in vocab.items()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocab,
        "merges": list(merges),
    }
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": by_id[i], **flags, "special": True} for i in sorted(special)
        ],
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": {**BYTE_LEVEL, "use_regex": True},
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False), "utf-8")


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """tokenizer_config.json, with the added tokens of tokenizer.json repeated as hubs have them."""
    added = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder, **settings})


def byte_alphabet() -> list[str]:
    """The printable characters that byte-level tokenizers use for the 256 bytes, by byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(spare)) for b in range(256)]


def _merges(alphabet: list[str]) -> list[str]:
    """Pairs that build a few English words, indentation, and 中 and 我 from their bytes."""
    merges = [
        "Ġ t",
        "h e",
        "Ġt he",
        "i n",
        "Ġ a",
        "e r",
        "o n",
        "r e",
        "a pp",
        "l e",
        "Ġ Ġ",
        "ĠĠ ĠĠ",
    ]
    merges = [m for m in merges if m != "a pp"] + ["H e", "l l", "He ll", "Hell o", "1 2", "Ċ Ċ"]
    for character in "中我你":
        a, b, c = (alphabet[byte] for byte in character.encode())
        merges += [f"{a} {b}", f"{a}{b} {c}"]
    return merges


DIGITS = {"type": "Digits", "individual_digits": True}


def split_by(*regexes: str, digits: bool = False) -> dict[str, Any]:
    """A pre-tokenizer that isolates what each regex matches, and digits, and then maps bytes."""
    kept = {"behavior": "Isolated", "invert": False}
    steps = [{"type": "Split", "pattern": {"Regex": regex}, **kept} for regex in regexes]
    last = {**BYTE_LEVEL, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*steps, *[DIGITS] * digits, last]}


SPLITTERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("qwen2", "qwen2-yes-no", "qwen2-ending"), split_by(QWEN_SPLIT)),
    "deepseek-llm": split_by(*DEEPSEEK_SPLITS, digits=True),
    "deepseek-v3": split_by(*DEEPSEEK3_SPLITS),
    "llama-bpe": split_by(LLAMA3_SPLIT),
    "dbrx": split_by(LLAMA3_SPLIT),
    "glm4": split_by(LLAMA3_SPLIT),
    "gpt-4o": split_by(GPT4O_SPLIT),
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [DIGITS, {**BYTE_LEVEL, "use_regex": True}],
    },
}
IGNORES_MERGES = ("llama-bpe", "glm4")
SPECIAL = {
    "glm4": ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>"]
}


def byte_level(folder: Path, splitter: str) -> int:
    """Special tokens first; the embedding has rows to spare."""
    alphabet = byte_alphabet()
    merges = _merges(alphabet) + (YES_NO if splitter == "qwen2-yes-no" else [])
    if splitter == "deepseek-llm":
        merges.remove("1 2")  # it never sees two digits together
    special = SPECIAL.get(splitter, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    ordered = [*special, *sorted(alphabet), *(m.replace(" ", "") for m in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(ordered))}
    normalizer = {"type": "NFC"} if splitter.startswith("qwen2") else None
    numbers = list(range(len(special)))
    write_tokenizer(folder, vocab, merges, numbers, SPLITTERS[splitter], normalizer)
    if splitter in IGNORES_MERGES:
        edit_json(
            folder / "tokenizer.json", lambda found: found["model"].update(ignore_merges=True)
        )
    settings: dict[str, Any] = {"chat_template": TEMPLATE, "clean_up_tokenization_spaces": False}
    settings |= {"eos_token": special[2], "pad_token": "<|endoftext|>", "model_max_length": 512}
    if splitter.startswith("qwen2"):
        settings |= {"bos_token": None, "add_bos_token": False, "tokenizer_class": "Qwen2Tokenizer"}
        settings |= {"add_prefix_space": False}
    else:
        kind = "GPT2Tokenizer" if splitter == "gpt-4o" else "PreTrainedTokenizerFast"
        settings |= {"bos_token": "<|endoftext|>", "tokenizer_class": kind}
    write_settings(folder, settings)
    if splitter == "qwen2-ending":
        end_with(folder, "<|endoftext|>")
        pooling(folder, "lasttoken")
    return 320


def end_with(folder: Path, token: str) -> None:
    """Each text ends with this token, whose vector is the text's, as in Qwen3-Embedding."""
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    end = {"SpecialToken": {"id": token, "type_id": 0}}
    ending = {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {token: {"id": token, "ids": [0], "tokens": [token]}},
    }
    edit_json(
        folder / "tokenizer.json",
        lambda found: found.update(
            post_processor={"type": "Sequence", "processors": [found["post_processor"], ending]}
        ),
    )


def pooling(folder: Path, mode: str) -> None:
    """modules.json and its pooling, as sentence-transformers writes them."""
    kind = "sentence_transformers.models."
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    write_json(
        folder / "modules.json",
        [
            {"idx": int(n), "name": n, "path": path, "type": kind + name}
            for n, path, name in modules
        ],
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    settings = {"word_embedding_dimension": 64, f"pooling_mode_{mode}": True}
    write_json(folder / "1_Pooling" / "config.json", settings)


def wordpiece(folder: Path) -> int:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["hello", "world", "the", "##ing", "##s", "中", "我", "!", "?", ".", ","]
    ordered = [*special, *letters, *(f"##{c}" for c in letters), *words]
    ordered = list(dict.fromkeys(ordered))
    vocab = {token: i for i, token in enumerate(ordered)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ends = [{"SpecialToken": {"id": n, "type_id": 0}} for n in ("[CLS]", "[SEP]")]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": t, **flags, "special": True} for i, t in enumerate(special)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], text, ends[1]],
            "pair": [ends[0], text, ends[1], *pair],
            "special_tokens": {
                t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    write_json(folder / "tokenizer.json", found)
    (folder / "vocab.txt").write_text("\n".join(ordered) + "\n", "utf-8")
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    settings = {f"{name}_token": text for name, text in names.items()}
    write_settings(folder, {**settings, "tokenizer_class": "BertTokenizer", "do_lower_case": True})
    pooling(folder, "cls_token")
    return len(vocab)
