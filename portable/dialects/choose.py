"""Which dialect a model speaks, told by its chat template, and the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from portable.dialects import (
    deepseek,
    generic,
    glm4,
    harmony,
    hermes,
    listed,
    llama3,
    mistral,
    qwen_xml,
    think,
)
from portable.dialects.dialect import Dialect
from portable.errors import UsageError

# The first one whose marks are all in the template.
_MARKS: tuple[tuple[Dialect, tuple[str, ...]], ...] = (
    (generic.GENERIC, ("<arg_key>",)),  # GLM-4.5's form is not known here
    (harmony.HARMONY, ("<|channel|>", "commentary")),
    (mistral.MISTRAL_V11, ("[TOOL_CALLS]", "[ARGS]")),
    (mistral.MISTRAL, ("[TOOL_CALLS]",)),
    (qwen_xml.QWEN_XML, ("<tool_call>", "<function=", "<parameter=")),
    (hermes.HERMES, ("<tool_call>", '"name"')),
    (hermes.HERMES, ("<tool_call>", '\\"name\\"')),
    (deepseek.DEEPSEEK, ("<｜tool▁calls▁begin｜>", "```json")),
    (deepseek.DEEPSEEK_V31, ("<｜tool▁calls▁begin｜>",)),
    (listed.GRANITE3, ("<|tool_call|>", "<|start_of_role|>")),
    (listed.PHI4, ("<|/tool|>",)),
    (llama3.LLAMA3, ("<|start_header_id|>", '"parameters": ')),
    (glm4.GLM4, ("[gMASK]", "<|observation|>")),
)
BY_NAME = {dialect.name: dialect for dialect, _ in _MARKS}


@dataclass(frozen=True, slots=True)
class Choice:
    """`tags` are what stands around thoughts, if the model writes some in front of its answers."""

    dialect: Dialect
    tags: think.Tags | None
    reason: str


def dialect_named(name: str) -> Dialect:
    """Raises UsageError."""
    if name not in BY_NAME:
        raise UsageError(f"--tool-parser: {name!r} is none of {', '.join(BY_NAME)}")
    return BY_NAME[name]


def choose(template: str, dialect: Dialect | None = None) -> Choice:
    """By a template's text, but for a dialect that is asked for."""
    tags = next((t for t in think.KNOWN if t.open in template or t.close in template), None)
    if dialect:
        return Choice(dialect, tags, "as asked for")
    if "commentary" not in template and not re.search(r"\btools\b", template):
        return Choice(generic.GENERIC, tags, "the chat template knows no tools")
    for dialect, marks in _MARKS:
        if all(mark in template for mark in marks):
            return Choice(dialect, tags, f"the chat template has {marks[-1]}")
    return Choice(generic.GENERIC, tags, "the chat template's way to call tools is not known")
