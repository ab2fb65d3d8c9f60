"""How one model is talked to: its dialect for tools, the tags of its thoughts; knows no HTTP."""

from __future__ import annotations

from dataclasses import replace

from portable.dialects.choose import choose
from portable.dialects.dialect import Dialect
from portable.dialects.grammar import grammar
from portable.dialects.harmony import HARMONY
from portable.dialects.said import PLAIN, Reader
from portable.dialects.think import Thoughts
from portable.dialects.toolbox import FirstCall
from portable.engine import protocol
from portable.engine.sequence import Grammar, SamplingParams, Thinking
from portable.errors import InvalidRequest
from portable.server.wanted import Conversation


class Speech:
    """`template` is the model's; `dialect` another one than that tells."""

    def __init__(self, template: str, dialect: Dialect | None = None) -> None:
        self.template = template
        choice = choose(template, dialect)
        self._dialect, self._tags, self.reason = choice.dialect, choice.tags, choice.reason

    @property
    def name(self) -> str:
        return self._dialect.name

    def command(self, id: str, params: SamplingParams, asked: Conversation) -> protocol.Generate:
        """A conversation as the engine is asked for it. Raises InvalidRequest."""
        tools = asked.tools.shown if asked.tools else []
        messages, options = self._dialect.show(asked.messages, tools)
        tags, thinking = self._tags, None
        if tags:
            thinking = Thinking(tags.open, tags.close, asked.thinking_budget)
        shown = self._dialect.control if self._reads_dialect(asked) else ()
        if tags:
            shown = (*shown, tags.open, tags.close)
        stop = self._dialect.stop if asked.tools and asked.tools.functions else ()
        params = replace(
            params,
            grammar=self._grammar(params.grammar, asked),
            thinking=thinking,
            shown=shown,
            stop=(*params.stop, *stop),
        )
        return protocol.Generate(id, params, messages, asked.options | options, begun=asked.begun)

    def reader(self, asked: Conversation) -> Reader:
        """What takes the model's answer apart."""
        reader: Reader = PLAIN
        if self._reads_dialect(asked):
            reader = self._dialect.reader(asked.tools.functions if asked.tools else {})
        if asked.tools and not asked.tools.several:
            reader = FirstCall(reader)
        separates = asked.reasoning_format != "none"
        return Thoughts(reader, self._tags) if self._tags and separates else reader

    def _reads_dialect(self, asked: Conversation) -> bool:
        """Harmony's also where there are no tools: its thoughts are channels."""
        functions = asked.tools.functions if asked.tools else {}
        return bool(functions) or (self._dialect is HARMONY and asked.reasoning_format != "none")

    def _grammar(self, given: Grammar | None, asked: Conversation) -> Grammar | None:
        """What an answer has to look like that calls tools, or may."""
        toolbox = asked.tools
        if toolbox is None or not toolbox.functions:
            return given
        if toolbox.choice == "required":
            if given:
                raise InvalidRequest(
                    f"{given.param}: a call is required, which shapes the answer already",
                    param=given.param,
                )
            return grammar(self._dialect, toolbox)
        if given is None:
            return None
        if given.kind != "json_schema":
            raise InvalidRequest(
                f"{given.param}: with tools an answer can be held to a JSON schema only",
                hint='or say tool_choice "none"',
                param=given.param,
            )
        return replace(grammar(self._dialect, toolbox, given.text), param=given.param)
