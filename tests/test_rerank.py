"""Qwen3 rerankers: which checkpoints are taken for one, and what becomes of their output matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import tiny
from ggufs import Gguf
from tiny_tokenizers import edit_json

from convert import Options, convert
from portable.errors import CheckpointError

CARD = "---\nlicense: apache-2.0\n---\n\n# Qwen3-Reranker-0.6B\n"


def tensors(folder: Path, name: str | None = None) -> set[str]:
    path = convert(folder, folder.parent / "out.gguf", Options(quant="F16", name=name)).path
    return {tensor for tensor in Gguf(path).tensors if not tensor.startswith("blk.")}


@pytest.mark.parametrize(
    ("name", "card", "is_one"),
    [
        ("Qwen/Qwen3-Reranker-0.6B", "", True),
        ("org/fine-tune", CARD, True),
        ("org/fine-tune", "# A model beside Qwen3-Reranker", False),
        ("Qwen/Qwen3-0.6B", "", False),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_rerankers_are_known_by_name_or_card(
    name: str, card: str, is_one: bool, tied: bool, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "model", "qwen3_reranker", tie_word_embeddings=tied)
    (folder / "README.md").write_text(card, "utf-8")
    head = {"cls.output.weight"} if is_one else set() if tied else {"output.weight"}
    assert tensors(folder, name) == {"token_embd.weight", "output_norm.weight"} | head


@pytest.mark.parametrize("number", [None, 400, -1, [1], "7"])
def test_answers_must_be_tokens(number: Any, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "qwen3-reranker", "qwen3_reranker")

    def change(found: Any) -> None:
        vocab = found["model"]["vocab"]
        del vocab["yes"]
        if number is not None:
            vocab["yes"] = number

    edit_json(folder / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match="no token 'yes'"):
        tensors(folder)


def test_an_embedding_model_needs_no_output_matrix(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen3_embedding", tie_word_embeddings=False, head=False)
    assert tensors(folder) == {"token_embd.weight", "output_norm.weight"}
    (folder / "modules.json").unlink()
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        tensors(folder)
