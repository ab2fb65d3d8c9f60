"""A GGUF file tried in a process of its own: loaded, asked for tokens, a prompt and some output.

The request comes on stdin as JSON. Each step's result is a line of JSON on stdout as soon as it is
there: llama.cpp aborts on some files, and the lines tell how far it came.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from portable.engine.attempt import (
    Failed,
    Generated,
    Loaded,
    Prompts,
    Request,
    Result,
    Skipped,
    Tokens,
)
from portable.engine.config import EngineConfig
from portable.engine.isolated import claimed_stdout
from portable.engine.llama import Llama
from portable.engine.prompt import template_of
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.engine.template import Message
from portable.engine.vocabulary import Outline
from portable.errors import NonFiniteLogits, NotEnoughMemory, PortableError, UnsupportedModel

USER = {"role": "user", "content": "What is 2 + 3? 你好！"}
CONVERSATION = [
    {"role": "system", "content": "You are a helpful assistant."},
    USER,
    {"role": "assistant", "content": "It is 5."},
    {"role": "user", "content": "Thanks! And 10?"},
]


def trials(request: Request, send: BinaryIO) -> None:
    """One line a step, up to the one that fails."""
    encoder = msgspec.json.Encoder()

    def say(result: Result) -> None:
        send.write(encoder.encode(result) + b"\n")
        send.flush()

    try:
        with closing(Outline(Path(request.model))) as outline:
            say(Loaded(outline.architecture, outline.parameters))
            say(Tokens([outline.tokenize(t, special=True, start=f) for t, f in request.texts]))
            say(_prompts(outline))
        if request.generate:
            say(_generated(Path(request.model), request.generate))
    except PortableError as error:
        say(Failed(error.message))


def _prompts(outline: Outline) -> Prompts:
    template = template_of(outline)
    if template is None:
        return Prompts([])
    conversations: list[list[Message]] = [[USER]]
    refused = ""
    try:
        template.render(CONVERSATION)
        conversations.append(CONVERSATION)
    except PortableError as error:  # many templates know no system prompt
        refused = error.message
    texts = [template.render(messages) for messages in conversations]
    return Prompts(
        [(text, outline.tokenize(text, special=True, start=False)) for text in texts], refused
    )


def _generated(path: Path, count: int) -> Result:
    """What the model says first, by greedy choice. Raises NonFiniteLogits."""
    config = EngineConfig(
        path,
        context=64,
        slots=1,
        step_tokens=16,
        gpu_layers=0,
        repack=False,
    )
    try:
        llama = Llama(config)
    except (NotEnoughMemory, UnsupportedModel) as error:
        return Skipped(error.message)
    with closing(llama):
        tokens = llama.tokenize("Hello", special=False, start=True)
        sequence = Sequence("", tokens, SamplingParams(), slot=0)
        begin = 0
        for _ in range(count):
            (logits,) = llama.decode([Slice(sequence, begin, len(sequence.tokens) - begin)])
            if not np.isfinite(logits).all():
                raise NonFiniteLogits("the model's output is not finite")
            begin = len(sequence.tokens)
            sequence.tokens.append(int(logits.argmax()))
        return Generated(count)


def main() -> int:
    """`python -m portable.engine.trial`."""
    results = claimed_stdout()
    data = sys.stdin.buffer.read()
    if data:
        trials(msgspec.json.decode(data, type=Request), results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
