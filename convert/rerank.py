"""Whether a checkpoint is a Qwen3 reranker, which its config.json does not say; knows no GGUF."""

from __future__ import annotations

from typing import Any

from convert.arch.qwen3_reranker import ANSWERS
from convert.checkpoint import Checkpoint
from convert.vocab.tokenizer_json import Tokenizer
from portable.errors import CheckpointError

FAMILY = "qwen3_reranker"
NAME = "qwen3-reranker"


def is_reranker(checkpoint: Checkpoint, name: str) -> bool:
    """By the model's name or the headline of its card, as llama.cpp's converter tells."""
    hints = (name, checkpoint.folder.name, str(checkpoint.config.get("_name_or_path")))
    if any(NAME in hint.lower() for hint in hints):
        return True
    try:
        return f"# {NAME}" in (checkpoint.text("README.md") or "").lower()
    except CheckpointError:  # a card that cannot be read says nothing
        return False


def answers(checkpoint: Checkpoint) -> dict[str, Any]:
    """`yes_token_id` and `no_token_id`, for config.json."""
    vocab, size = Tokenizer(checkpoint).whole_vocab(), checkpoint.config.get("vocab_size")
    for answer in ANSWERS:
        number = vocab.get(answer)
        if type(number) is not int or type(size) is not int or not 0 <= number < size:
            raise CheckpointError(
                f"a reranker answers yes or no, but its tokenizer has no token {answer!r}",
                hint="download the tokenizer files again",
            )
    return {f"{answer}_token_id": vocab[answer] for answer in ANSWERS}
