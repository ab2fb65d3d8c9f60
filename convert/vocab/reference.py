"""How the checkpoint's own tokenizer splits texts: what a finished file is held against.

The texts are `probe.json`: a line of each language and habit that splitters differ in. Those of
`core` are what everybody writes; `other` has rare scripts and characters. All are in Unicode's
composed form (NFC): llama.cpp's byte-level BPE does not compose characters, which some
tokenizers do first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convert.checkpoint import Checkpoint
from convert.vocab.tokenizer_json import Tokenizer, flattened
from convert.vocab.tokens import trusting_nothing

PROBE = Path(__file__).with_name("probe.json")
# Of the control tokens, the first and the last: vocabularies may hold a thousand.
CONTROL_TOKENS = 24
FIRST_ONLY = (
    "llama.cpp puts a space before every text and after every control token, "
    "the tokenizer only before the first word"
)


@dataclass(frozen=True)
class Sample:
    """A text; `framed` with the tokens that the tokenizer puts around every text."""

    text: str
    core: bool = True
    framed: bool = False


class Reference:
    """The tokenizer of a checkpoint folder. Raises CheckpointError.

    `limit` says what of it llama.cpp cannot do; prompts may then be split otherwise.
    """

    def __init__(self, folder: Path) -> None:
        with trusting_nothing():
            self._tokenizer = Tokenizer(Checkpoint(folder))
            self._native = self._tokenizer.native
            self._native.no_padding()
            self._native.no_truncation()
            pre_tokenizer = self._tokenizer.json.get("pre_tokenizer")
            first = any(step.get("prepend_scheme") == "first" for step in flattened(pre_tokenizer))
            self.limit = FIRST_ONLY if first else ""
            self.samples = [*self._from_file(), *self._control(), *self._framed()]

    def ids(self, sample: Sample) -> list[int]:
        return list(self._native.encode(sample.text, add_special_tokens=sample.framed).ids)

    def _control(self) -> Iterator[Sample]:
        """Tokens that are matched before a text is split, each within one.

        Those that are spaces, [MASK], and those in running text, are nobody's prompt.
        """
        texts = list(self._tokenizer.added)
        half = CONTROL_TOKENS // 2
        for text in dict.fromkeys(texts[:half] + texts[-half:]):
            rare = "▁" in text or text == self._tokenizer.named.get("mask")
            yield Sample(f"a{text}b{text}{text}中", core=not (rare or self.limit))
            yield Sample(f"one {text} two\n{text}\n", core=False)

    def _framed(self) -> Iterator[Sample]:
        """llama.cpp can put one token before a text and one after, and no more."""
        text = "Hello world"
        plain, framed = self.ids(Sample(text)), self.ids(Sample(text, framed=True))
        before = next((i for i, token in enumerate(framed) if token in plain[:1]), 0)
        simple = before <= 1 and len(framed) - before - len(plain) <= 1
        yield Sample(text, simple, framed=True)
        yield Sample("你好，世界。", simple, framed=True)

    def _from_file(self) -> Iterator[Sample]:
        for part, texts in json.loads(PROBE.read_text(encoding="utf-8")).items():
            for text in texts:
                limited = self.limit and text.startswith(" ")
                yield Sample(text, part == "core" and not limited)
