"""What single families change in a vocabulary that was read: ids, prefix, the splitter's name."""

from __future__ import annotations

from collections.abc import Callable

from convert.checkpoint import Checkpoint
from convert.vocab import sentencepiece
from convert.vocab.sentencepiece import PREFIX
from convert.vocab.tokenizer_json import Tokenizer
from convert.vocab.tokens import UNUSED, Vocab
from portable.errors import CheckpointError

CODE_LLAMA_EOT = 32010
TURN_END = "<|im_end|>"


def llama(vocab: Vocab, checkpoint: Checkpoint) -> None:
    _prefix_of_settings(vocab, checkpoint)
    size = len(vocab.tokens)
    if size == 32016:
        vocab.keys.setdefault("tokenizer.ggml.eot_token_id", CODE_LLAMA_EOT)
    if size == 49152:
        # SmolLM's and Granite's size: their tokenizers never add a BOS, whatever the files say.
        vocab.keys["tokenizer.ggml.add_bos_token"] = False


def gemma(vocab: Vocab, checkpoint: Checkpoint) -> None:
    if not checkpoint.has("tokenizer.model"):
        sentencepiece.put_added(vocab, Tokenizer(checkpoint))
    vocab.leading[PREFIX] = False


def glm(vocab: Vocab, checkpoint: Checkpoint) -> None:
    """The splitter is Llama 3's, but under the name that comes with no BOS of its own."""
    vocab.pre = {"llama-bpe": "glm4", "dbrx": "chatglm-bpe"}.get(vocab.pre, vocab.pre)
    added = Tokenizer(checkpoint).added
    names = {"eos": "<|endoftext|>", "eot": "<|user|>", "unknown": "<|endoftext|>"}
    for name, token in names.items():
        if token not in added:
            raise CheckpointError(f"the tokenizer has no token {token}, which ends a GLM's turn")
        vocab.keys.setdefault(f"tokenizer.ggml.{name}_token_id", added[token].id)


def glm4(vocab: Vocab, checkpoint: Checkpoint) -> None:
    glm(vocab, checkpoint)
    end = vocab.keys["tokenizer.ggml.unknown_token_id"]
    vocab.keys.setdefault("tokenizer.ggml.bos_token_id", end)


def chatglm(vocab: Vocab, checkpoint: Checkpoint) -> None:
    glm(vocab, checkpoint)
    vocab.keys["tokenizer.ggml.add_bos_token"] = False


def baichuan(vocab: Vocab, checkpoint: Checkpoint) -> None:
    """Baichuan2 was trained without a space before a text; its SentencePiece model says so."""
    if not sentencepiece.adds_prefix(checkpoint.data("tokenizer.model") or b""):
        vocab.leading[PREFIX] = False


def internlm2(vocab: Vocab, checkpoint: Checkpoint) -> None:
    vocab.leading[PREFIX] = sentencepiece.adds_prefix(checkpoint.data("tokenizer.model") or b"")
    for i, token in enumerate(vocab.tokens):
        if token == b"\0" or token.startswith(b"[UNUSED"):
            vocab.types[i] = UNUSED
        if token == b"\0":
            # llama.cpp would take it for an empty token; its converter writes this one.
            vocab.tokens[i] = "🐉".encode()
    if TURN_END.encode() in vocab.tokens:
        vocab.keys["tokenizer.ggml.eos_token_id"] = vocab.tokens.index(TURN_END.encode())


def internlm3(vocab: Vocab, checkpoint: Checkpoint) -> None:
    _prefix_of_settings(vocab, checkpoint)
    settings = checkpoint.json("tokenizer_config.json") or {}
    for number, entry in (settings.get("added_tokens_decoder") or {}).items():
        if entry["content"] == TURN_END and entry.get("special"):
            vocab.keys["tokenizer.ggml.eos_token_id"] = int(number)


def _prefix_of_settings(vocab: Vocab, checkpoint: Checkpoint) -> None:
    prefix = (checkpoint.json("tokenizer_config.json") or {}).get("add_prefix_space")
    if prefix is None:
        return
    if not isinstance(prefix, bool):
        raise CheckpointError("tokenizer_config.json: add_prefix_space is not true or false")
    vocab.leading[PREFIX] = prefix


ADJUST: dict[str, Callable[[Vocab, Checkpoint], None]] = {
    "llama": llama,
    "gemma": gemma,
    "glm4": glm4,
    "chatglm": chatglm,
    "baichuan": baichuan,
    "internlm2": internlm2,
    "internlm3": internlm3,
}
