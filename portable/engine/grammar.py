"""Grammars that an answer must follow, as masks over the vocabulary; THE user of llguidance.

Compiling takes milliseconds, is bounded by llguidance's own limits and happens in the caller's
thread; a mask takes tens of microseconds a token. Source: https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import json
import re
import threading
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from portable.engine.backend import Backend
from portable.engine.sequence import Grammar
from portable.errors import EngineError, InvalidRequest

Logits = npt.NDArray[np.float32]

MAX_BYTES = 256 << 10
# Between two tokens of JSON; without a bound a small model can write blanks for ever.
_BLANKS = r"[ \n\t]{0,20}"
_AT_LINE = re.compile(r"at (?P<line>\d+)\(\d+\): (?P<reason>.*?)( \d+ \| .*)?")
_LIMITS = LLParserLimits(verbose_errors=False)


class Constraint:
    """One answer's way through its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = np.zeros(-(-vocabulary // 32), np.uint32)

    @property
    def finished(self) -> bool:
        """Nothing can follow but the end."""
        return bool(self._matcher.is_stopped())

    def can_begin(self) -> bool:
        """Whether anything is allowed as the first token."""
        self._compute_mask()
        return not self._matcher.is_error()

    def masked(self, logits: Logits) -> Logits:
        """Shape (n_vocab,): what the grammar does not allow next is -inf."""
        self._compute_mask()
        self._check()
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._vocabulary)
        return np.where(bits.view(np.bool_), logits, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _compute_mask(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(
                f"the grammar cannot be followed: {_first_line(self._matcher.get_error())}",
                hint="use a simpler grammar or schema",
            )


class Grammars:
    """Compiles grammars for one model. Any thread may call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._made: tuple[LLTokenizer, _Spelled] | None = None

    def compile(self, grammar: Grammar) -> Constraint:
        """Raises InvalidRequest that names the place of what is wrong in the grammar."""
        refused = partial(InvalidRequest, param=grammar.param)
        if len(grammar.text.encode("utf-8", "replace")) > MAX_BYTES:
            raise refused(f"{grammar.param}: a grammar may have {MAX_BYTES} bytes")
        try:
            source = _SOURCES[grammar.kind](grammar.text + self._control_rules(grammar))
        except Exception as error:  # llguidance raises a plain Exception here
            raise refused(f"{grammar.param}: {_first_line(str(error))}") from None
        matcher = LLMatcher(self._tokenizer()[0], source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _at_its_place(grammar, " ".join(matcher.get_error().split()))
        constraint = Constraint(matcher, self._backend.vocabulary)
        if not constraint.can_begin():
            raise refused(f"{grammar.param}: no answer fits it, or none that can be found in time")
        return constraint

    def _control_rules(self, grammar: Grammar) -> str:
        ids = self._tokenizer()[1].control if grammar.control else {}
        return "".join(
            f"\ncontrol_{at}: " + (f"<[{ids[name]}]>" if name in ids else json.dumps(name))
            for at, name in enumerate(grammar.control)
        )

    def _tokenizer(self) -> tuple[LLTokenizer, _Spelled]:
        """Made when first asked for: it takes about half a second for 150,000 tokens."""
        with self._lock:
            if self._made is None:
                spelled = _Spelled(self._backend)
                made = LLTokenizer(TokenizerWrapper(spelled), eos_token=spelled.ends)
                self._made = made, spelled
            return self._made


class _Spelled:
    """The vocabulary as llguidance wants to see it."""

    bos_token_id = None

    def __init__(self, backend: Backend) -> None:
        found = backend.spelling()
        self.tokens, self.ends = found.tokens, found.ends
        self.special_token_ids = found.control
        self.control = {found.tokens[id].decode("utf-8", "replace"): id for id in found.control}
        self.eos_token_id = found.ends[0]
        self._tokenize = partial(backend.tokenize, special=False, start=False)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenize(text if isinstance(text, str) else text.decode("utf-8"))


def _json_schema(text: str) -> str:
    given: Any = json.loads(text)
    if not isinstance(given, dict):
        raise ValueError("a JSON schema is an object")
    overrides = {"whitespace_pattern": _BLANKS}
    return str(LLMatcher.grammar_from_json_schema(given, overrides=overrides))


def _lark(text: str) -> str:
    return str(LLMatcher.grammar_from_lark(text))


_SOURCES = {
    "json_schema": _json_schema,
    "regex": LLMatcher.grammar_from_regex,
    "lark": _lark,
    "gbnf": lambda text: _lark(gbnf_to_lark(text)),
}


def _at_its_place(grammar: Grammar, reason: str) -> InvalidRequest:
    """llguidance names a line, which may come from another field, and quotes the grammar."""
    at = _AT_LINE.fullmatch(reason)
    if not (at and grammar.places):
        return InvalidRequest(f"{grammar.param}: {reason:.300}", param=grammar.param)
    place = dict(enumerate(grammar.places, 1)).get(int(at["line"]), grammar.param)
    return InvalidRequest(f"{place}: {at['reason']:.300}", param=place)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]
