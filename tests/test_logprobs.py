"""How likely tokens were: told with their text, the same streaming and not, and as numpy says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from serving import CHAT, Server, asking, check_error, events, server, text_of

from portable.engine.config import EngineConfig
from portable.engine.engine import Engine
from portable.engine.logprobs import Logprobs
from portable.engine.sequence import Delta, SamplingParams

__all__ = ["server"]
COMPLETIONS = "/v1/completions"


def deltas(prompt: bytes, backend: FakeBackend, **params: Any) -> list[Delta]:
    engine = Engine(backend, EngineConfig(Path("fake.gguf")))
    engine.add("a", list(prompt), SamplingParams(temperature=0, logprobs=2, **params))
    found: list[Delta] = []
    while engine.has_work:
        found += engine.step()
    return found


def told(found: list[Delta]) -> bytes:
    return b"".join(known.token for delta in found for known in delta.logprobs)


def test_tokens_that_are_told_are_those_of_the_text() -> None:
    found = deltas("你好 a>".encode(), FakeBackend(answer=lambda _: "你好!".encode()))
    assert told(found).decode() == "".join(d.text for d in found) == "你好!"
    for delta in found:
        assert bool(delta.logprobs) == bool(delta.text)


def test_a_stop_string_and_an_unfinished_character_are_not_told() -> None:
    backend = FakeBackend(answer=lambda _: b"one two three")
    assert told(deltas(b"x>", backend, stop=("two",))) == b"one "
    backend = FakeBackend(answer=lambda _: "a你".encode())
    found = deltas(b"x>", backend, max_tokens=3)
    assert "".join(d.text for d in found) == "a" and told(found) == b"a"


def test_text_that_no_token_has_brings_no_token_sooner() -> None:
    """Guesses make many tokens one step's: those of a stop string come with text before it."""
    held = Logprobs(0, lambda id: [b"\xff", b"a", b"s"][id], begun="<think>")
    for token in (0, 1, 2, 2):
        held.add(token, np.zeros(3, np.float32))
    assert [known.token for known in held.take("<think>\N{REPLACEMENT CHARACTER}a")] == [
        b"\xff",
        b"a",
    ]


@given(st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=40), st.data())
def test_probabilities_are_those_of_softmax(row: list[float], data: st.DataObject) -> None:
    logits = np.array(row, np.float32)
    token = data.draw(st.integers(0, len(row) - 1))
    held = Logprobs(3, lambda id: b"%d." % id)
    held.add(token, logits)
    (known,) = held.take("x")
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    assert known.logprob == pytest.approx(exact[token], abs=1e-4)
    assert [p for _, p in known.top] == pytest.approx(sorted(exact, reverse=True)[:3], abs=1e-4)


def check(content: list[Any], text: str, top: int) -> None:
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == text
    for token in content:
        assert token["logprob"] <= 1e-6 and len(token["top_logprobs"]) == top
        if top:  # greedy: the likeliest one was drawn
            assert token["top_logprobs"][0]["token"] == token["token"]
            assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"])
            assert sum(math.exp(other["logprob"]) for other in token["top_logprobs"]) <= 1.001


def test_chat_tells_them_whole_and_streamed(server: Server) -> None:
    fields = {"logprobs": True, "top_logprobs": 4, "max_tokens": 8}
    (choice,) = server.chat("Say hi.", **fields).json()["choices"]
    check(choice["logprobs"]["content"], choice["message"]["content"], 4)
    chunks = events(server.post(CHAT, asking("Say hi.", stream=True, **fields)))
    parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    streamed = [token for part in parts for token in part["content"]]
    check(streamed, text_of(chunks), 4)
    assert [t["token"] for t in streamed] == [t["token"] for t in choice["logprobs"]["content"]]


def test_only_their_own_where_no_others_are_asked_for(server: Server) -> None:
    (choice,) = server.chat(logprobs=True).json()["choices"]
    check(choice["logprobs"]["content"], choice["message"]["content"], 0)
    assert server.chat().json()["choices"][0]["logprobs"] is None


def test_a_temperature_or_bias_does_not_change_what_the_model_said(server: Server) -> None:
    def first(**fields: Any) -> Any:
        body = {"logprobs": True, "top_logprobs": 2, "max_tokens": 1, **fields}
        return server.chat("Say hi.", **body).json()["choices"][0]["logprobs"]["content"][0]

    plain, hot = first(), first(temperature=1.5, seed=3)
    assert [t["token"] for t in hot["top_logprobs"]] == [t["token"] for t in plain["top_logprobs"]]
    assert hot["top_logprobs"][0]["logprob"] == pytest.approx(plain["logprob"], abs=0.01)


def test_completions_tell_them_in_the_older_form(server: Server) -> None:
    body = {"prompt": "1, 2, 3,", "max_tokens": 6, "temperature": 0, "logprobs": 3}
    whole = server.post(COMPLETIONS, body).json()["choices"][0]
    known = whole["logprobs"]
    assert "".join(known["tokens"]) == whole["text"]
    assert len(known["token_logprobs"]) == len(known["top_logprobs"]) == len(known["tokens"])
    assert all(len(top) == 3 for top in known["top_logprobs"])
    ends = [at + len(t) for at, t in zip(known["text_offset"], known["tokens"])]
    assert known["text_offset"] == [0, *ends[:-1]]
    chunks = events(server.post(COMPLETIONS, body | {"stream": True}))
    parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [at for part in parts for at in part["text_offset"]] == known["text_offset"]
    check_error(server.post(COMPLETIONS, body | {"echo": True}), 400, "logprobs")


def test_the_openai_client_reads_them(server: Server) -> None:
    with OpenAI(base_url=server.url + "/v1", api_key="EMPTY") as client:
        made = client.chat.completions.create(
            model="smol",
            messages=[{"role": "user", "content": "hi"}],
            logprobs=True,
            top_logprobs=2,
            max_tokens=4,
        )
        known = made.choices[0].logprobs
        assert known and known.content and len(known.content[0].top_logprobs) == 2
