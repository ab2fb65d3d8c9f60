"""tokenizer.json with tokenizer_config.json over it, as transformers puts the two together.

It knows what the files say, not what a GGUF wants of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers

from convert.checkpoint import Checkpoint
from portable.errors import CheckpointError, UnsupportedModel

SPECIAL_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Tokens that transformers' classes assume where the files name none.
CLASS_DEFAULTS = {
    "Llama": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "Qwen2": {"eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"},
    "GPT2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
    "XLMRoberta": {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>"}
    | {"pad": "<pad>", "mask": "<mask>"},
    "Bert": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
}


@dataclass(frozen=True)
class Added:
    """A token that is matched before the text is split."""

    content: str
    id: int
    special: bool
    normalized: bool


class Tokenizer:
    """`vocab` is the model's own, `added` the tokens beside it, by content."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        found = checkpoint.json("tokenizer.json")
        if found is None:
            raise CheckpointError(
                f"{checkpoint.folder} has no tokenizer.json",
                hint="download the checkpoint again; the tokenizer files belong to it",
            )
        self.checkpoint = checkpoint
        self.json = found
        self.settings = checkpoint.json("tokenizer_config.json") or {}
        self.model: dict[str, Any] = _object(found.get("model"), "model")
        self.scores: list[float] = []
        self.vocab = self._vocab(self.model.get("vocab"))
        self.named = dict(self._named())
        self.added = self._added()

    def _vocab(self, found: Any) -> dict[str, int]:
        """Ids by token; a unigram model lists its pieces with their `scores` instead."""
        if self.model.get("type") != "Unigram":
            return _object(found, "model.vocab")
        self.scores = [float(score) for _, score in found]
        return {piece: number for number, (piece, _) in enumerate(found)}

    def whole_vocab(self) -> dict[str, int]:
        """Every token's id; an added token wins its id."""
        return {**self.vocab, **{token.content: token.id for token in self.added.values()}}

    def round_trip(self, text: str) -> str:
        """What encoding and decoding makes of an added token's text."""
        plain = all("!" <= c <= "~" for c in text)
        if plain and self.model.get("type") in ("BPE", "WordPiece"):
            return text
        return str(
            self.native.decode(
                self.native.encode(text, add_special_tokens=False).ids, skip_special_tokens=False
            )
        )

    @property
    def native(self) -> Any:
        if not hasattr(self, "_loaded"):
            try:
                self._loaded = tokenizers.Tokenizer.from_str(
                    self.checkpoint.text("tokenizer.json") or ""
                )
            except Exception as error:  # the library raises bare Exception
                raise CheckpointError(f"tokenizer.json cannot be used: {error}") from error
        return self._loaded

    def _named(self) -> Iterator[tuple[str, str]]:
        """(bos, "<s>") and so on: from the settings, the older map, or the class."""
        legacy = {}
        if "added_tokens_decoder" not in self.settings:
            legacy = self.checkpoint.json("special_tokens_map.json") or {}
        kind = str(self.settings.get("tokenizer_class") or "").removesuffix("Fast")
        defaults = CLASS_DEFAULTS.get(kind.removesuffix("Tokenizer"), {})
        for name in SPECIAL_NAMES:
            key = f"{name}_token"
            entry = legacy.get(key, self.settings.get(key, defaults.get(name)))
            if (text := token_text(entry)) is not None:
                yield name, text

    def special_texts(self) -> set[str]:
        more = self.settings.get("additional_special_tokens") or []
        listed = {token_text(entry) for entry in more} if isinstance(more, list) else set()
        return {*self.named.values(), *(text for text in listed if text is not None)}

    def _added(self) -> dict[str, Added]:
        listed = self.json.get("added_tokens") or []
        if not isinstance(listed, list):
            raise CheckpointError("tokenizer.json: added_tokens is not a list")
        out: dict[str, Added] = {}
        for token in sorted(map(_added_token, listed), key=lambda token: token.id):
            self._add(out, token, token.special)
        decoder = self.settings.get("added_tokens_decoder") or {}
        special = self.special_texts()
        for entry in _object(decoder, "added_tokens_decoder").values():
            token = _added_token({**_object(entry, "added_tokens_decoder"), "id": -1})
            self._add(out, token, token.special or token.content in special)
        for text in sorted(special):
            if text not in out:
                self._add(out, Added(text, -1, True, False), True)
        return out

    def _add(self, out: dict[str, Added], token: Added, special: bool) -> None:
        """A token not yet known gets the next free id, whatever its file says, as in tokenizers."""
        known = out.get(token.content)
        number = known.id if known else self.vocab.get(token.content)
        if number is None:
            taken = (entry.id + 1 for entry in out.values())
            number = max(len(self.vocab), max(taken, default=0))
        out[token.content] = Added(token.content, number, special, token.normalized)


def token_text(entry: Any) -> str | None:
    """A token named by its text, or by an object with its `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def is_spm_style(model: Mapping[str, Any]) -> bool:
    """Llama 2's and Mistral's BPE, with `<0x0A>` tokens for bytes that no piece covers."""
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def flattened(entry: Any) -> Iterator[dict[str, Any]]:
    """A normalizer's or pre-tokenizer's steps, sequences unfolded."""
    if isinstance(entry, dict):
        inner = entry.get("normalizers") or entry.get("pretokenizers")
        if inner is None:
            yield entry
        else:
            for part in inner:
                yield from flattened(part)


def prepends(step: Mapping[str, Any]) -> bool:
    """Whether a step puts a space before the text."""
    if step.get("type") == "Metaspace":
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space") else "")
        return scheme in ("always", "first")
    return step.get("type") == "Prepend"


def need_type(tokenizer: Tokenizer, wanted: str) -> None:
    found = tokenizer.model.get("type")
    if found != wanted:
        raise UnsupportedModel(
            f"tokenizers of type {found!r} are not supported here, only {wanted}",
            hint="take a GGUF that somebody else converted",
        )


def _added_token(entry: Any) -> Added:
    entry = _object(entry, "added_tokens")
    content, number = entry.get("content"), entry.get("id")
    if not isinstance(content, str) or type(number) is not int:
        raise CheckpointError("tokenizer.json: an added token has no content or no id")
    special = bool(entry.get("special", False))
    return Added(content, number, special, bool(entry.get("normalized", not special)))


def _object(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise CheckpointError(f"tokenizer files: {what} is not an object", hint="download it again")
    return found
