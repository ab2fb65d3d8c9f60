"""ms-swift 3.12's InferClient and InferStats, rebuilt from their rules, against a real server.

Source: ms-swift 3.12.6, swift/llm/infer/protocol.py (the dataclasses), infer_engine/infer_client.py
(what is sent, how lines are read), swift/plugin/metric.py. The client builds its dataclasses with
dacite, which refuses a missing field without a default and a value of another type, and ignores
unknown keys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from serving import Server, running, server

__all__ = ["server"]


@dataclass
class ModelEntry:
    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "ms-swift"


@dataclass
class ModelList:
    data: list[ModelEntry]
    object: str = "list"


@dataclass
class UsageInfo:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass
class ChatMessage:
    role: Literal["system", "user", "assistant"]
    content: str | list[dict[str, Any]] | int | float | list[float]
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


@dataclass
class Choice:
    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length", None]
    logprobs: dict[str, list[dict[str, Any]]] | None = None
    token_ids: list[int] | None = None


@dataclass
class Response:
    model: str
    choices: list[Choice]
    usage: UsageInfo
    id: str = ""
    object: str = "chat.completion"
    created: int = 0


@dataclass
class DeltaMessage:
    role: Literal["system", "user", "assistant", None] = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


@dataclass
class StreamChoice:
    index: int
    delta: DeltaMessage
    finish_reason: Literal["stop", "length", None]
    logprobs: dict[str, list[dict[str, Any]]] | None = None


@dataclass
class StreamResponse:
    model: str
    choices: list[StreamChoice]
    usage: UsageInfo | None = None
    id: str = ""
    object: str = "chat.completion.chunk"
    created: int = 0


@dataclass
class RequestConfig:
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    num_beams: int = 1
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    stream: bool = False
    logprobs: bool = False
    top_logprobs: int | None = None
    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    length_penalty: float = 1.0
    return_details: bool = False
    structured_outputs_regex: str | None = None


class WrongType(Exception):
    """What dacite raises."""


def from_dict(kind: Any, data: Any) -> Any:
    """A dataclass from JSON by dacite's rules."""
    hints = get_type_hints(kind)
    given = {}
    for item in dataclasses.fields(kind):
        if item.name in data:
            given[item.name] = read(hints[item.name], data[item.name])
        elif item.default is item.default_factory is dataclasses.MISSING:
            raise WrongType(f"missing {item.name}")
    return kind(**given)


def read(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return read_union(parts, value)
    if origin is Literal:
        right = value in parts
    elif origin in (list, dict):
        right = isinstance(value, origin)
        if right and origin is list:
            return [read(parts[0], one) for one in value]
    else:
        right = kind is Any or isinstance(value, kind)
    if not right:
        raise WrongType(f"{value!r} is no {kind}")
    return value


def read_union(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return read(kind, value)
        except (WrongType, TypeError):
            continue
    raise WrongType(f"{value!r} matches none of {kinds}")


class InferStats:
    """The tutorial's metric: it reads `usage` of the last chunk, whatever that is."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.prompt: dict[str, int] = {}
        self.generated: dict[str, int] = {}

    def update(self, output: Any) -> None:
        self.prompt[output.id] = output.usage.prompt_tokens
        self.generated[output.id] = output.usage.completion_tokens

    def compute(self) -> dict[str, float]:
        runtime = time.perf_counter() - self.start
        return {
            "num_prompt_tokens": sum(self.prompt.values()),
            "num_generated_tokens": sum(self.generated.values()),
            "num_samples": len(self.generated),
            "runtime": runtime,
            "samples/s": len(self.generated) / runtime,
            "tokens/s": sum(self.generated.values()) / runtime,
        }


class InferClient:
    """As the original asks and reads, without aiohttp."""

    def __init__(self, port: int) -> None:
        self.port = port

    @contextlib.contextmanager
    def call(self, method: str, path: str, body: Any = None) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("localhost", self.port, timeout=60)
        headers = {"Authorization": "Bearer EMPTY", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, "/v1" + path, body and json.dumps(body), headers)
            with connection.getresponse() as response:
                yield response

    @property
    def models(self) -> list[str]:
        with self.call("GET", "/models") as response:
            return [model.id for model in from_dict(ModelList, json.load(response)).data]

    def request(self, query: str, config: RequestConfig) -> dict[str, Any]:
        """Only what differs from the defaults is sent, under the first model's name."""
        empty = dataclasses.asdict(RequestConfig())
        said = {k: v for k, v in dataclasses.asdict(config).items() if v != empty[k]}
        messages = [{"role": "user", "content": query}]
        return {"model": self.models[0], "messages": messages, **said}

    def infer(self, query: str, config: RequestConfig, metric: InferStats) -> Any:
        asked = self.request(query, config)
        if config.stream:
            return self.stream(asked, metric)
        with self.call("POST", "/chat/completions", asked) as response:
            body = json.load(response)
        if body["object"] == "error":
            raise RuntimeError(body["message"])
        answer = from_dict(Response, body)
        metric.update(answer)
        return answer

    def stream(self, asked: dict[str, Any], metric: InferStats) -> Iterator[StreamResponse]:
        chunk: Any = None
        with self.call("POST", "/chat/completions", asked) as response:
            for data in filter(None, map(self.data, response)):
                if data == "[DONE]":
                    break
                body = json.loads(data)
                if body["object"] == "error":
                    raise RuntimeError(body["message"])
                chunk = from_dict(StreamResponse, body)
                yield chunk
        metric.update(chunk)

    @staticmethod
    def data(line: bytes) -> str:
        text = line.decode("utf-8").strip()
        assert not text or text.startswith("data:"), f"data: {text}"
        return text[5:].strip()


def test_the_tutorials_script(server: Server) -> None:
    engine, metric = InferClient(server.port), InferStats()
    assert engine.models == ["SmolLM2-135M-Instruct"]
    config = RequestConfig(max_tokens=5, temperature=0)
    for query in ["你是谁？", "what's your name?", "你是谁研发的？"]:
        response = engine.infer(query, config, metric)
        assert isinstance(response.choices[0].message.content, str)
    assert metric.compute()["num_samples"] == 3

    metric = InferStats()
    config = RequestConfig(max_tokens=5, temperature=0, stream=True)
    for query in ["78654+657=?", "晚上睡不着觉怎么办"]:
        text = "".join(c.choices[0].delta.content for c in engine.infer(query, config, metric))
        assert text
    assert metric.compute()["num_samples"] == 2
    assert 2 <= metric.compute()["num_generated_tokens"] <= 10


def test_everything_its_request_config_can_say_is_taken(server: Server) -> None:
    config = RequestConfig(
        max_tokens=3,
        temperature=0.5,
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.05,
        num_beams=2,
        stop=["。"],
        seed=42,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        length_penalty=1.1,
    )
    assert InferClient(server.port).infer("hi", config, InferStats()).usage.completion_tokens <= 3


def test_keep_alive_during_silence_is_a_chunk_that_it_can_read(server: Server) -> None:
    config = RequestConfig(max_tokens=1, temperature=0, stream=True)
    chunks = list(InferClient(server.port).infer("silence " * 300, config, InferStats()))
    assert all(chunk.choices[0].delta.content == "" for chunk in chunks[:-2])


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_one_for_it_too(server: Server, stream: bool) -> None:
    config = RequestConfig(temperature=7, stream=stream)
    # Of a stream it asserts that lines begin with `data:`; a real status is worth more than that.
    with pytest.raises(AssertionError if stream else RuntimeError, match="temperature"):
        list(InferClient(server.port).infer("hi", config, InferStats()))


def test_an_error_in_the_middle_is_one_for_it_too() -> None:
    with running() as made:
        engine = InferClient(made.port)
        config = RequestConfig(max_tokens=500, temperature=0, stream=True)
        chunks = engine.infer("Count to a thousand.", config, InferStats())
        assert next(chunks).choices[0].delta.role == "assistant"
        assert next(chunks).choices[0].delta.content  # without text it would be asked again
        made.child.kill()
        with pytest.raises(RuntimeError, match="process died"):
            list(chunks)
