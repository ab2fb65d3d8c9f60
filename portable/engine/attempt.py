"""What is asked of the trial of a GGUF file, and what it answers, step by step; loads nothing."""

from __future__ import annotations

import msgspec

STEPS = ("load", "tokens", "template", "generation")


class Request(msgspec.Struct):
    """`texts` are to be tokenized: each a text, and whether it is framed by the model's own tokens.

    `generate` tokens are decoded; 0 leaves that step out.
    """

    model: str
    texts: list[tuple[str, bool]] = []
    generate: int = 0


class Loaded(msgspec.Struct, tag=True):
    """The file's structure is one that llama.cpp runs."""

    architecture: str
    parameters: int


class Tokens(msgspec.Struct, tag=True):
    ids: list[list[int]]


class Prompts(msgspec.Struct, tag=True):
    """What the chat template made, as text and as ids; `refused` are its words against a system
    prompt. Without prompts the model has no template."""

    prompts: list[tuple[str, list[int]]]
    refused: str = ""


class Generated(msgspec.Struct, tag=True):
    tokens: int


class Skipped(msgspec.Struct, tag=True):
    reason: str


class Failed(msgspec.Struct, tag=True):
    reason: str


Result = Loaded | Tokens | Prompts | Generated | Skipped | Failed
