"""Asks a model in this process as many threads at once; knows no HTTP and no figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from portable.bench.answer import Answer, Sample
from portable.bench.machine import machine
from portable.bench.options import BenchOptions
from portable.bench.report import Predicted, Report, level
from portable.bench.run import WARM_UP_TOKENS, Run, Say
from portable.bench.workload import Message
from portable.engine.config import EngineConfig
from portable.engine.sequence import Delta, SamplingParams
from portable.engine.service import Service
from portable.engine.worker import Streams
from portable.fit.prediction import predict


def bench_model(config: EngineConfig, options: BenchOptions, say: Say) -> Report:
    """Load the model, run every level on it and free it. Raises what loading raises.

    A request that fails is counted in its level. More clients than `config.slots` wait in line.
    """
    say(f"loading {config.model.name}")
    config = replace(config, prompt_cache=None)  # a disk at work would be measured, too
    here = machine()  # before loading, which is load, too
    streams = Streams()
    service = Service(config, streams)
    try:
        info = service.info
        here = replace(here, threads=info.threads, placement=info.placement)
        run = Run(options, say, config.model.name, info.name, here)
        _measure(run, LocalModel(service, streams))
    finally:
        service.close()
    report = run.report()
    return replace(report, predicted=_predicted(config, options, report, say))


def _predicted(
    config: EngineConfig, options: BenchOptions, report: Report, say: Say
) -> Predicted | None:
    """What was foreseen of one client; what is in the cache is not read."""
    alone = report.alone
    foreseen = predict(config, say) if alone and alone.prompt_tokens else None
    if not foreseen or not alone or not alone.prompt_tokens:
        return None
    cached = alone.cached_tokens or 0
    return Predicted(
        prompt_tokens=alone.prompt_tokens,
        first=foreseen.prompt_seconds(alone.prompt_tokens - cached, cached),
        decode_rate=foreseen.decode_rate(alone.prompt_tokens + options.max_tokens / 2),
    )


def _measure(run: Run, model: LocalModel) -> None:
    options = run.options
    run.warmed_up(model.ask("warm-up", run.workload.warm_up(), WARM_UP_TOKENS).error)
    for number, clients in enumerate(options.clients, 1):
        crowd = _Crowd(model, run.workload.level(number, clients), options.max_tokens)
        start = time.perf_counter()
        samples = crowd.ask_all(clients)
        run.add(level(clients, samples, time.perf_counter() - start, options))


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model in this process, as a client sees it."""

    service: Service
    streams: Streams

    def ask(self, id: str, messages: list[Message], max_tokens: int) -> Sample:
        """One answer; what goes wrong is in the sample."""
        answer = Answer()
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        self.streams.open(id)
        try:
            self.service.worker.submit(id, self._tokens(messages), params)
        except Exception as error:  # a client's thread that dies would be missing in the figures
            answer.fail(str(error) or type(error).__name__)
            return answer.sample()
        for delta in self.streams.read(id):
            _take(delta, answer)
        return answer.sample()

    def _tokens(self, messages: list[Message]) -> list[int]:
        if self.service.template:
            return self.service.chat_tokens([dict(message) for message in messages], {})
        return self.service.text_tokens("\n".join(message["content"] for message in messages))


def _take(delta: Delta, answer: Answer) -> None:
    answer.piece(delta.text)
    if delta.error is not None:
        answer.fail(": ".join(delta.error))
    if delta.usage is not None:
        usage = delta.usage
        answer.used(usage.completion_tokens, usage.prompt_tokens, usage.cached_tokens)
    if delta.finish_reason is not None:
        answer.finish()


class _Crowd:
    """Threads that share one line of requests; each takes the next when it has its answer."""

    def __init__(
        self, model: LocalModel, requests: Iterator[list[Message]], max_tokens: int
    ) -> None:
        self._model = model
        self._requests = enumerate(requests)
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._samples: list[Sample] = []

    def ask_all(self, clients: int) -> list[Sample]:
        # Daemons: after Ctrl-C nobody waits for an answer that the closed engine will not give.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._samples

    def _work(self) -> None:
        while (request := self._next()) is not None:
            index, messages = request
            sample = self._model.ask(f"{id(self)}-{index}", messages, self._max_tokens)
            with self._lock:
                self._samples.append(sample)

    def _next(self) -> tuple[int, list[Message]] | None:
        with self._lock:
            return next(self._requests, None)
