"""Writes the tests' SentencePiece unigram tokenizer, as XLM-RoBERTa's models have it."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

from tiny_tokenizers import pooling, write_settings

# SentencePiece's precompiled map of nine rules (full-width A and ideographic space among them),
# out of its trainer: a double array, then the replacements.
CHARSMAP = zlib.decompress(
    base64.b64decode(
        "eNol0wWsl1UYB+Bz7y4bMBiblGyE0qEgjYJId4mUdJeSCtLcS8cFlG5E6VC6u2GUgnQLA0ajdD5/+LZnv3ent++cEBNC"
        "+CiERIlCSJwgRL7YFeqkaUJIqI4mNiY6xOYIYUna6LA5bwhxxiXRPlsmljNlMpnc5A9ISQpSkwpLhQ/ZdNz8WtEhnTot"
        "GUjPx++PEDKRkSxkJhtZsXXITi5y8imfkIfcOFL4jPzkoyAFKEwhPqcIRfmCLynGVxSnJCUoTSnKUobylKMiFahMJapS"
        "hepU42tq8A01qU0t6lKHb6lHA+rTiIY0oTHNaEoLmtOKlrShNe1oy3e0pwPf04mOdKEzP9CVbvzIT3SnJz3oTS/60of+"
        "9CMu8tMZyAAGM4ihDGE4wxjJCEYRzxhG8ws/M46xTGA8k5jIFCYzjanMYDqzmMlsfuV3fmMuc5jPPBaygMUsYilL+JM/"
        "WM4yVrKC1axiLWtYzzo2soHNkbvIVrawnW3sZAe72cVe9rCffZG++1HhgDzEQY5wmL84yjH+5h+Oc5ITnOYUZznDec5x"
        "kQtc5hL/coVrXOU692Kiwk15g1uRMfFR4Y68HenjLg+4z3885BH/84THPOMpL3jOK17yhtfv3l7eK3GD8nk7JUPrdq7E"
        "W0/rkAk="
    )
)
WORDS = ["▁", "▁the", "▁Hello", "▁world", "▁我", "▁1", "in", "er", "23"]
PIECES = [*WORDS, *"我中你好、вé🚀abcdefghijklmnopqrstuvwxyzAHIYL0123456789.,!?'-()*:="]
FLAGS = {"single_word": False, "rstrip": False, "normalized": False, "special": True}


def scored() -> list[tuple[str, float]]:
    """Log probabilities: long pieces first, as a trained model has them."""
    return [(piece, -1.0 - i / 8) for i, piece in enumerate(dict.fromkeys(PIECES))]


def unigram(folder: Path, with_model: bool) -> int:
    """tokenizer.json with its settings, and the sentence-transformers files that say "cls"."""
    if with_model:
        unigram_model(folder)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [*((token, 0.0) for token in special), *scored(), ("<mask>", 0.0)]
    mask = len(vocab) - 1
    added = [*enumerate(special), (mask, "<mask>")]
    start, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **FLAGS, "lstrip": i == mask} for i, token in added
        ],
        "normalizer": {
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(CHARSMAP).decode(),
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first, end],
            "pair": [start, first, end, end, second, end],
            "special_tokens": {
                t: {"id": t, "ids": [i], "tokens": [t]} for i, t in ((0, "<s>"), (2, "</s>"))
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }
    (folder / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False), "utf-8")
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>"}
    names |= {"unk": "<unk>", "mask": "<mask>"}
    settings = {f"{name}_token": text for name, text in names.items()}
    settings |= {"tokenizer_class": "XLMRobertaTokenizer", "clean_up_tokenization_spaces": True}
    write_settings(folder, settings)
    pooling(folder, "cls_token")
    return len(vocab)


def unigram_model(folder: Path) -> None:
    """sentencepiece.bpe.model: a protobuf of the same pieces after SentencePiece's own three."""
    out = bytearray()
    for piece, score, kind in [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        *((piece, score, 1) for piece, score in scored()),
    ]:
        text = piece.encode()
        entry = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)
        entry += b"\x18" + bytes([kind]) if kind != 1 else b""
        out += b"\x0a" + bytes([len(entry)]) + entry
    # trainer_spec: model_type unigram. normalizer_spec: name, charsmap; its flags are true anyway.
    size = len(CHARSMAP)
    rules = b"\x0a\x08nmt_nfkc\x12" + bytes([size & 0x7F | 0x80, size >> 7]) + CHARSMAP
    out += b"\x12\x02\x18\x01\x1a" + bytes([len(rules) & 0x7F | 0x80, len(rules) >> 7]) + rules
    (folder / "sentencepiece.bpe.model").write_bytes(bytes(out))
