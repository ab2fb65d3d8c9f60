"""Asks an OpenAI-compatible server as many clients at once; knows no engine and no figures.

Each request has a connection of its own, so that a server that closes an idle one just then does
not fail it. The time to the first token includes connecting.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from portable.bench.answer import Answer, Sample
from portable.bench.machine import machine
from portable.bench.options import BenchOptions
from portable.bench.report import Report, level
from portable.bench.run import WARM_UP_TOKENS, Run, Say
from portable.bench.wire import failure, first_model, read_chunk
from portable.bench.workload import Message
from portable.errors import NetworkError, UsageError

_CONNECT_SECONDS = 10.0


def bench_server(url: str, options: BenchOptions, say: Say) -> Report:
    """Run every level against the server at `url`, with or without `/v1`.

    A request that fails is counted in its level. Raises UsageError if `url` is none or if
    only a model in this process can answer, NetworkError if nothing is there or it names no model.
    """
    if options.prompt in ("restart", "steps"):
        what = "restarted" if options.prompt == "restart" else "stepped through"
        raise UsageError(f"a server is not {what} from here", hint="name a model instead")
    return asyncio.run(_bench(parse_url(url), options, say))


async def _bench(url: httpx2.URL, options: BenchOptions, say: Say) -> Report:
    async with _client(url, options) as http:
        here = machine()
        server = _Server(http, options, await _model(http, options))
        # Without a user's name and password, which a report must not show.
        target = f"{url.scheme}://{url.netloc.decode()}{url.path.rstrip('/')}"
        run = Run(options, say, target, server.model, here)
        say(f"{run.target}: {run.model}")
        warm_up = await server.ask(run.workload.warm_up(), WARM_UP_TOKENS)
        run.warmed_up(warm_up.error)
        for number, clients in enumerate(options.clients, 1):
            start = time.perf_counter()
            samples = await server.ask_all(run.workload.level(number, clients), clients)
            run.add(level(clients, samples, time.perf_counter() - start, options))
    return run.report()


@dataclass(frozen=True, slots=True)
class _Server:
    http: httpx2.AsyncClient
    options: BenchOptions
    model: str

    async def ask_all(self, requests: Iterator[list[Message]], clients: int) -> list[Sample]:
        """`clients` at a time; each takes the next request when it has its answer."""
        samples: list[Sample] = []

        async def work() -> None:
            for messages in requests:
                samples.append(await self.ask(messages, self.options.max_tokens))

        await asyncio.gather(*(work() for _ in range(clients)))
        return samples

    async def ask(self, messages: list[Message], max_tokens: int) -> Sample:
        """One streamed answer; what goes wrong is in the sample."""
        answer = Answer()
        body = self._body(messages, max_tokens)
        try:
            async with (
                asyncio.timeout(self.options.timeout),
                self.http.stream("POST", "chat/completions", json=body) as response,
            ):
                await _read(response, answer)
        except TimeoutError:
            answer.fail(f"no whole answer within {self.options.timeout:g} s")
        except httpx2.HTTPError as error:
            answer.fail(_reason(error))
        return answer.sample()

    def _body(self, messages: list[Message], max_tokens: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def _read(response: httpx2.Response, answer: Answer) -> None:
    if response.status_code != 200:
        answer.fail(failure(response.status_code, await response.aread()))
        return
    async for event in httpx2.EventSource(response):
        read_chunk(event.data, answer)


async def _model(http: httpx2.AsyncClient, options: BenchOptions) -> str:
    """The model to ask for, and the proof that somebody answers."""
    try:
        response = await http.get("models", timeout=min(options.timeout, 60.0))
    except httpx2.HTTPError as error:
        raise NetworkError(
            f"{_origin(http)} does not answer: {_reason(error)}",
            hint="is the server running there?",
        ) from None
    if options.model is not None:
        return options.model
    if response.status_code != 200:
        told = failure(response.status_code, response.content)
        hint = "give its key" if response.status_code in (401, 403) else "name the model"
        raise NetworkError(f"{_origin(http)} lists no models: {told}"[:300], hint=hint)
    if (found := first_model(response.content)) is None:
        raise NetworkError(
            f"{_origin(http)} lists no models", hint="is it an OpenAI-compatible server?"
        )
    return found


def _client(url: httpx2.URL, options: BenchOptions) -> httpx2.AsyncClient:
    key = options.api_key
    return httpx2.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        # The whole answer has its own limit; a pause within it is for the figures to show.
        timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        trust_env=not _is_loopback(url.host),  # no proxy on the way to this machine
    )


def parse_url(text: str) -> httpx2.URL:
    """`host:8000`, `http://host:8000` or `http://host:8000/v1`: the address that ends in `/v1`."""
    try:
        url = httpx2.URL(text if "://" in text else f"http://{text}")
    except httpx2.InvalidURL as error:
        raise UsageError(f"{text!r} is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"{text!r} is no address", hint="such as http://127.0.0.1:8000")
    path = url.path.rstrip("/")
    return url.copy_with(path=path if path.endswith("/v1") else f"{path}/v1")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _origin(http: httpx2.AsyncClient) -> str:
    return f"{http.base_url.scheme}://{http.base_url.netloc.decode()}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
