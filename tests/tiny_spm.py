"""Writes small SentencePiece tokenizers as their families publish them.

Pieces come with SentencePiece's type: 1 normal, 2 unknown, 3 control, 4 user-defined, 6 a byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_tokenizers import TEMPLATE, write_json

BYTES = [(f"<0x{byte:02X}>", 6) for byte in range(256)]
WORDS = ["▁t", "he", "▁the", "in", "▁a", "er", "on", "▁▁", "▁▁▁▁", "ll", "▁He", "▁Hell", "▁Hello"]
LETTERS = ["▁", *"abcdehilnorstuvwxyH0123456789.,!?'"]
PAIRS = ["▁ t", "h e", "▁t he", "i n", "▁ a", "e r", "o n", "▁ ▁", "▁▁ ▁▁", "l l", "He ll"]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACE]}
DECODE = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


@dataclass(frozen=True)
class Style:
    """`first` lie before the bytes, `last` after the words; `added` are in no SentencePiece model.

    `named` pieces are repeated as added tokens; True for those that are special. `renamed` are
    pieces that tokenizer_config.json gives another text.
    """

    first: list[tuple[str, int]]
    named: dict[str, bool]
    last: list[tuple[str, int]] = field(default_factory=list)
    added: dict[str, bool] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    prefix: bool = True
    tokenizer_json: bool = True
    pairs: list[str] = field(default_factory=lambda: PAIRS)

    @property
    def pieces(self) -> list[tuple[str, int]]:
        words = [(piece, 1) for piece in [*WORDS, *LETTERS] if (piece, 4) not in self.first]
        return [*self.first, *BYTES, *words, *self.last]


LLAMA = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
LLAMA_NAMED = {"<unk>": True, "<s>": True, "</s>": True}
LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
TURNS = {"<start_of_turn>": True, "<end_of_turn>": True, "<unused0>": False}
GEMMA_NAMED = {"<pad>": True, "<eos>": True, "<bos>": True, "<unk>": True, **TURNS}
STYLES = {
    "spm": Style(
        LLAMA,
        LLAMA_NAMED,
        settings={**LLAMA_NAMES, "legacy": False, "tokenizer_class": "LlamaTokenizer"},
    ),
    "gemma": Style(
        [
            *(("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2)),
            *((piece, 4) for piece in (*TURNS, "\n", "\n\n", "▁▁", "▁▁▁▁")),
        ],
        GEMMA_NAMED | {"\n": False, "\n\n": False, "▁▁": False, "▁▁▁▁": False},
        settings={
            **{"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"},
            **{"pad_token": "<pad>", "tokenizer_class": "GemmaTokenizer"},
        },
        prefix=False,
        # User-defined pieces are merged before all others.
        pairs=list(dict.fromkeys(["\n \n", "▁ ▁", "▁▁ ▁▁", *PAIRS])),
    ),
    "phi3": Style(
        LLAMA,
        LLAMA_NAMED,
        added={"<|endoftext|>": True, "<|user|>": True, "<|placeholder|>": False, "<|end|>": True},
        settings={**LLAMA_NAMES, "pad_token": "<|endoftext|>", "tokenizer_class": "LlamaTokenizer"},
    ),
    "internlm2": Style(
        LLAMA,
        LLAMA_NAMED,
        last=[*((f"[UNUSED_TOKEN_{i}]", 1) for i in range(4)), ("\0", 1)],
        renamed={"[UNUSED_TOKEN_1]": "<|im_start|>", "[UNUSED_TOKEN_2]": "<|im_end|>"},
        settings={**LLAMA_NAMES, "tokenizer_class": "InternLM2Tokenizer"},
        tokenizer_json=False,
    ),
    "internlm3": Style(
        LLAMA,
        LLAMA_NAMED,
        added={"<|im_start|>": True, "<|im_end|>": True, "<restate>": False},
        settings={
            **{**LLAMA_NAMES, "add_prefix_space": False},
            "tokenizer_class": "InternLM3Tokenizer",
        },
        tokenizer_json=False,
    ),
}


def spm(folder: Path, name: str, model: bool) -> int:
    """Writes a style's files, tokenizer.model if `model`; how many tokens it has."""
    style = STYLES[name]
    vocab = {piece: i for i, (piece, _) in enumerate(style.pieces)}
    ids = vocab | {text: len(vocab) + i for i, text in enumerate(style.added)}
    special = {**style.named, **style.added}
    listed = [{"id": ids[t], "content": t, **FLAGS, "special": s} for t, s in special.items()]
    if style.tokenizer_json:
        bos = style.settings["bos_token"]
        write_json(folder / "tokenizer.json", _tokenizer_json(style, vocab, listed, bos))
    if model:
        _tokenizer_model(folder, style)
    for piece, text in style.renamed.items():
        listed.append({"id": ids[piece], "content": text, **FLAGS, "special": True})
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in listed}
    settings = {"add_bos_token": True, "add_eos_token": False, "chat_template": TEMPLATE}
    settings |= {"added_tokens_decoder": decoder, **style.settings}
    write_json(folder / "tokenizer_config.json", settings)
    return len(ids)


def _tokenizer_json(
    style: Style, vocab: dict[str, int], added: list[dict[str, Any]], bos: str
) -> dict[str, Any]:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [{"SpecialToken": {"id": bos, "type_id": 0}}, text]
    pair = [{"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if style.prefix else []
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    split["invert"] = False
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": PREPEND if style.prefix else SPACE,
        "pre_tokenizer": None if style.prefix else split,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, *pair],
            "special_tokens": {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}},
        },
        "decoder": {"type": "Sequence", "decoders": [*DECODE, *strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [pair for pair in style.pairs if pair.replace(" ", "") in vocab],
        },
    }


def _tokenizer_model(folder: Path, style: Style) -> None:
    """tokenizer.model: a protobuf of the pieces, with scores that fall from piece to piece."""
    out = bytearray()
    start = len(style.first) + len(BYTES) - 1
    for i, (piece, kind) in enumerate(style.pieces):
        score = -float(i - start) if kind == 1 else 0.0
        text = piece.encode()
        entry = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)
        if kind != 1:
            entry += b"\x18" + bytes([kind])
        out += b"\x0a" + bytes([len(entry)]) + entry
    # trainer_spec: model_type BPE, byte_fallback; normalizer_spec: identity, whether a space is put
    # before the text, and that no spaces are removed.
    out += b"\x12\x05\x18\x02\x98\x02\x01"
    spec = b"\x0a\x08identity" + (b"" if style.prefix else b"\x18\x00") + b"\x20\x00"
    out += b"\x1a" + bytes([len(spec)]) + spec
    (folder / "tokenizer.model").write_bytes(bytes(out))
