"""Several answers to one request: drawn apart, read once, as one reply or as one stream."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from serving import CHAT, Server, asking, events, server

__all__ = ["server"]
COMPLETIONS = "/v1/completions"
LONG = "Tell me about the sea. " * 40


def texts(reply: Any) -> list[str]:
    choices = reply.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["message"]["content"] for choice in choices]


def test_n_answers_are_drawn_apart(server: Server) -> None:
    answers = texts(server.chat(n=3, temperature=1.0, seed=5, max_tokens=12))
    assert len(set(answers)) == 3


def test_n_answers_count_their_prompt_once(server: Server) -> None:
    several, alone = (server.chat(LONG, n=n).json()["usage"] for n in (4, 1))
    assert several["completion_tokens"] == 16
    assert several["prompt_tokens"] == alone["prompt_tokens"]


def test_a_stream_of_several_answers(server: Server) -> None:
    fields = {"n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 12}
    said, ends = defaultdict(str), {}
    body = asking(**fields, stream=True, stream_options={"include_usage": True})
    chunks = events(server.post(CHAT, body))
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        assert choice["index"] not in ends
        said[choice["index"]] += choice["delta"]["content"]
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert len(set(said.values())) == 3
    assert set(ends) == {0, 1, 2} and {c["id"] for c in chunks} == {chunks[0]["id"]}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] <= 36


def test_several_prompts_and_answers_in_order(server: Server) -> None:
    body = {"prompt": ["1, 2, 3,", "a, b, c,"], "n": 2, "max_tokens": 3, "temperature": 0}
    whole = server.post(COMPLETIONS, body | {"echo": True}).json()
    assert [c["text"][:4] for c in whole["choices"]] == ["1, 2", "1, 2", "a, b", "a, b"]
    said: dict[int, str] = defaultdict(str)
    for chunk in events(server.post(COMPLETIONS, body | {"echo": True, "stream": True})):
        said[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert [said[at] for at in range(4)] == [choice["text"] for choice in whole["choices"]]


def test_several_prompts_are_counted_alike_whole_and_streamed(server: Server) -> None:
    body = {"prompt": ["one, two, three,", "a"], "n": 2, "max_tokens": 3, "temperature": 0}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for _ in range(2):  # the second time both from the cache
        whole = server.post(COMPLETIONS, body).json()["usage"]
        streamed = events(server.post(COMPLETIONS, body | options))[-1]["usage"]
    assert streamed == whole and whole["prompt_tokens"] > 5


def test_a_client_that_leaves_takes_all_of_its_answers_along(server: Server) -> None:
    fields = {"n": 4, "max_tokens": 1500, "logit_bias": {"2": -100, "0": -100}}
    with server.client.stream("POST", server.url + CHAT, json=asking(**fields, stream=True)) as it:
        next(it.iter_lines())
    server.wait_idle()
