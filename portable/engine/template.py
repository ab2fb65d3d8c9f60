"""Messages -> prompt text, by the model's own Jinja template, sandboxed and bounded. Pure.

The template comes with the model file and is not trusted: no attribute of Python can be reached, no
object changed, its time is limited, and so is what most operators and filters can build (not `~`:
the server runs it in a child process). Nor is a user's text: what would name a control token in it
(<|im_end|>) is marked, so that it is tokenized as the plain text that it is.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from portable.errors import InvalidRequest, TemplateError

Message = dict[str, Any]

# Unicode noncharacters: valid UTF-8 that no text means to contain.
MARK, UNMARK = "\ufdd0", "\ufdd1"
_MARKED = re.compile(f"{MARK}(.*?){UNMARK}", re.DOTALL)
# A width of four digits, or one that comes from somewhere else.
_WIDE_PRINTF = re.compile(r"%[^%a-zA-Z]*(\*|\d{4,})")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(\{|\d{4,})")
_MAX_SIZE = 4_000_000
_MAX_NUMBER = 100_000
_MAX_PRODUCT = 10_000_000
_MAX_BITS = 1 << 14
_SECONDS = 5.0


class _Refused(jinja2.TemplateError):
    """The template itself called raise_exception: these messages are not for this model."""


class _TooMuch(Exception):
    """Over the limit of time or size."""


class _Generation(Extension):
    """transformers' tag around what the model says; training needs it, rendering does not."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The environment of transformers, with operators that could eat all memory bounded."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        texts = [value for value in (left, right) if not isinstance(value, int | float)]
        if operator == "%" and isinstance(left, str):
            _check_format(_WIDE_PRINTF, left)
        elif operator == "*" and texts and _size(left) * _size(right) > _MAX_SIZE:
            raise _TooMuch("a repeated text")
        elif operator == "+" and texts and _size(left) + _size(right) > _MAX_SIZE:
            raise _TooMuch("a long text")
        elif (operator == "*" and _bits(left) + _bits(right) > _MAX_BITS) or (
            operator == "**" and _bits(left) * abs(right) > _MAX_BITS
        ):
            raise _TooMuch("a large number")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):  # methods of texts; macros and functions take any data
            _check_arguments((owner, *args), kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format, with formats that cannot ask for a text of any width."""
        formatted = super().wrap_str_format(value)
        owner = getattr(value, "__self__", None)
        if formatted is None or owner is None:
            return formatted

        def bounded(*args: Any, **kwargs: Any) -> str:
            _check_format(_WIDE_BRACES, owner)
            return formatted(*args, **kwargs)

        return bounded


class ChatTemplate:
    """One model's template, compiled once. Raises TemplateError if it does not compile."""

    def __init__(
        self,
        source: str,
        *,
        bos: str = "",
        eos: str = "",
        control: Iterable[str] = (),
        max_chars: int = 4_000_000,
    ) -> None:
        self.bos = bos
        self._globals = {"bos_token": bos, "eos_token": eos, "tools": None, "documents": None}
        self._max_chars = max_chars
        self._control = control_pattern(control)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template does not compile: {error}") from None

    def render(self, messages: list[Message], **options: Any) -> str:
        """Prompt text with user-made control tokens marked; `segments` takes it apart.

        Raises InvalidRequest with the template's own words if it refuses the messages, and
        TemplateError if it fails or takes more than its time or size.
        """
        shown = [self._marked(message) for message in messages]
        told = {name: self._mark(value) for name, value in options.items()}
        values = {**self._globals, "add_generation_prompt": True, **told, "messages": shown}
        try:
            return self._run(values)
        except _Refused as error:
            raise InvalidRequest(
                f"the model's chat template says: {error}", param="messages"
            ) from None
        except (_TooMuch, MemoryError, RecursionError) as error:
            raise TemplateError(f"the model's chat template takes too much: {error}") from None
        except (jinja2.TemplateError, SecurityError) as error:
            raise TemplateError(f"the model's chat template failed: {error}") from None
        except Exception as error:  # a template may raise anything, such as ZeroDivisionError
            kind = type(error).__name__
            raise TemplateError(f"the model's chat template failed: {kind}: {error}") from None

    def _run(self, values: dict[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        with _Deadline(_SECONDS):
            for piece in self._template.generate(values):
                size += len(piece)
                if size > self._max_chars:
                    raise _TooMuch(f"more than {self._max_chars} characters")
                pieces.append(piece)
        return "".join(pieces)

    def _marked(self, message: Message) -> Message:
        return {key: self._mark(value) for key, value in message.items()}

    def _mark(self, value: Any) -> Any:
        if isinstance(value, str):
            return marked(value, self._control)
        if isinstance(value, list):
            return [self._mark(item) for item in value]
        if isinstance(value, dict):
            return {key: self._mark(item) for key, item in value.items()}
        return value


def control_pattern(control: Iterable[str]) -> re.Pattern[str]:
    """Finds the texts that name control tokens, and the marks."""
    texts = {text for text in (*control, MARK, UNMARK) if text}
    return re.compile("|".join(re.escape(t) for t in sorted(texts, key=len, reverse=True)))


def marked(text: str, control: re.Pattern[str]) -> str:
    """A user's text, in which what would name a control token is marked as plain text."""
    return control.sub(lambda found: f"{MARK}{found[0].strip(MARK + UNMARK)}{UNMARK}", text)


def plain(prompt: str) -> str:
    """A rendered prompt without its marks."""
    return prompt.replace(MARK, "").replace(UNMARK, "")


def segments(prompt: str) -> Iterator[tuple[str, bool]]:
    """Parts of a rendered prompt, and whether control tokens may be named in each."""
    for at, part in enumerate(_MARKED.split(prompt)):
        text = plain(part)
        if text:
            yield text, at % 2 == 0


class _Deadline:
    """Stops code that runs too long by a trace function: a template cannot be asked to stop."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if time.monotonic() > self._end:
            raise _TooMuch(f"more than {_SECONDS:.0f} seconds")
        return self._trace


def _environment() -> _Environment:
    env = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    env.globals["raise_exception"] = _refuse
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    env.filters["tojson"] = _tojson
    env.filters["format"] = _format
    for name in ("center", "indent", "wordwrap", "join"):
        env.filters[name] = _bounded(env.filters[name])
    env.filters["replace"] = _replace
    return env


def _bounded(filter: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose numbers and texts are bounded."""

    @functools.wraps(filter)
    def run(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(args, kwargs)
        return filter(*args, **kwargs)

    return run


def _check_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse numbers that are widths or counts of no chat, and texts that multiply."""
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, int) and abs(argument) > _MAX_NUMBER:
            raise _TooMuch("a number argument")
    texts = [argument for argument in args if isinstance(argument, str)]
    if len(texts) > 1 and math.prod(len(text) + 1 for text in texts) > _MAX_PRODUCT:
        raise _TooMuch("text arguments")


def _check_format(wide: re.Pattern[str], text: str) -> None:
    if wide.search(text):
        raise _TooMuch("a wide format")


def _format(text: str, *args: Any, **kwargs: Any) -> str:
    """The filter `format`: printf's, bounded."""
    _check_format(_WIDE_PRINTF, text)
    return str(str(text) % (kwargs or args))


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    """The filter `replace`, with a result that is bounded."""
    whole = str(text)
    if len(whole) + whole.count(old) * len(new) > _MAX_SIZE:
        raise _TooMuch("a replaced text")
    return whole.replace(old, new, count)


def _refuse(message: str) -> None:
    raise _Refused(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' templates expect it: Chinese stays readable, HTML is not escaped."""
    _check_arguments((indent,), {})
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _size(value: Any) -> int:
    if isinstance(value, str | list | tuple):
        return max(len(value), 1)
    return abs(value) if isinstance(value, int) else 1


def _bits(value: Any) -> int:
    return int(value.bit_length()) if isinstance(value, int) else 64
