"""Replicas on Ray Serve: sessions stay, streams stream, and what dies is replaced."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
import replicas
from replicas import Cluster
from serving import CHAT, asking, check_error, model_file, until

pytestmark = pytest.mark.skipif("sys.platform != 'linux'")


def application(most: int) -> dict[str, Any]:
    """As a config of Ray Serve has it: one replica, or as many as it takes."""
    scaling = {
        "min_replicas": 1,
        "max_replicas": most,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 0.5,
        "look_back_period_s": 2.0,
    }
    args = {
        "model": str(model_file()),
        "served_model_name": "smol",
        "context": 2048,
        "parallel": 2,
        "flash_attention": "off",
        "prompt_cache": "off",
    }
    # Two ingresses, which know nothing of each other, find the same replica.
    server = {"autoscaling_config": scaling, "max_queued_requests": 4}
    options = {"Server": server, "Ingress": {"num_replicas": 2}}
    return {
        "name": "portable",
        "import_path": "portable.cluster:app",
        "args": args,
        "deployments": [
            {"name": name, "graceful_shutdown_timeout_s": 60, **own}
            for name, own in options.items()
        ],
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with replicas.running() as made:
        made.deploy(application(2))
        until(made.is_up, 60)
        yield made


def chat(cluster: Cluster, said: list[Any] | str, **fields: Any) -> httpx2.Response:
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    response = cluster.client.post(CHAT, json=asking(**fields) | {"messages": messages})
    assert response.status_code == 200, response.text
    return response


def home(response: httpx2.Response) -> str:
    id: str = response.headers["x-replica-id"]
    return id


def both_answer(cluster: Cluster) -> bool:
    return len({home(cluster.client.get("/health")) for _ in range(20)}) == 2


def running(cluster: Cluster, session: str) -> int:
    """Requests that the engine of this session's replica holds."""
    models = cluster.client.get("/v1/models", headers={"x-session-id": session}).json()
    count: int = models["data"][0]["meta"]["running"]
    return count


def test_more_requests_than_one_replica_takes_bring_another(cluster: Cluster) -> None:
    assert len(cluster.replicas) == 1
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            chat(cluster, "Tell a long story.", max_tokens=50)

    clients = [threading.Thread(target=ask) for _ in range(6)]
    for client in clients:
        client.start()
    try:
        until(lambda: cluster.ask("states") == {"RUNNING": 2}, 60)
    finally:
        enough.set()
        for client in clients:
            client.join()
    until(lambda: both_answer(cluster))


def test_a_session_stays_where_it_was_read(cluster: Cluster) -> None:
    homes = set()
    for at in itertools.count():
        said = [{"role": "user", "content": f"Story number {at}, please: once upon a time"}]
        first = chat(cluster, said)
        said += [first.json()["choices"][0]["message"], {"role": "user", "content": "Go on."}]
        second = chat(cluster, said)
        assert home(second) == home(first)
        cached = second.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= first.json()["usage"]["prompt_tokens"]
        homes.add(home(first))
        if at >= 3 and len(homes) == 2:
            break
        assert at < 30, "all sessions went to one replica"


def test_a_full_replica_lets_go_and_full_ones_refuse(cluster: Cluster) -> None:
    asked = asking("Tell a story.", max_tokens=30)
    given = {"headers": {"x-session-id": "busy"}}
    with ThreadPoolExecutor(32) as pool:
        answers = list(
            pool.map(lambda _: cluster.client.post(CHAT, json=asked, **given), range(32))
        )
    served = [answer for answer in answers if answer.status_code == 200]
    # At most four at each replica and four that wait in each ingress.
    assert len({home(answer) for answer in served}) == 2 and len(served) < len(answers)
    for answer in answers:
        if answer not in served:
            assert check_error(answer, 429)["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) > 0


def test_a_stored_response_is_found_again(cluster: Cluster) -> None:
    client = openai.OpenAI(base_url=cluster.url + "/v1", api_key="EMPTY", max_retries=0)
    for at in range(4):
        first = client.responses.create(
            model="smol", input=f"My name is Ann {at}.", max_output_tokens=16
        )
        second = client.responses.create(
            model="smol", input="Hm?", previous_response_id=first.id, max_output_tokens=16
        )
        assert second.previous_response_id == first.id
        assert client.responses.retrieve(second.id).output_text == second.output_text


def test_openais_client_streams_chunk_by_chunk(cluster: Cluster) -> None:
    client = openai.OpenAI(base_url=cluster.url + "/v1", api_key="EMPTY", max_retries=0)
    messages: Any = [{"role": "user", "content": "Count to twenty."}]
    asked: Any = {"model": "smol", "messages": messages, "max_tokens": 30, "temperature": 0}
    came, said = [], ""
    for chunk in client.chat.completions.create(**asked, stream=True):
        came.append(time.monotonic())
        said += chunk.choices[0].delta.content or ""
    # In pieces, and not all at the end.
    assert len(came) > 10 and came[len(came) // 2] - came[0] > (came[-1] - came[0]) / 10
    assert said == client.chat.completions.create(**asked).choices[0].message.content


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_takes_the_request_along(cluster: Cluster, stream: bool) -> None:
    session = {"x-session-id": f"leaves {stream}"}
    asked = asking("Tell a story.", max_tokens=1500, stream=stream)
    with socket.create_connection(("127.0.0.1", cluster.port)) as connection:
        body = json.dumps(asked).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in session.items())
        connection.sendall(head.encode() + b"\r\n" + body)
        until(lambda: running(cluster, session["x-session-id"]) == 1)
    until(lambda: running(cluster, session["x-session-id"]) == 0)


def test_metrics_are_those_of_all_replicas(cluster: Cluster) -> None:
    said = cluster.client.get("/metrics")
    assert said.status_code == 200 and said.headers["content-type"].startswith("text/plain")
    loaded = re.findall(r'^portable_model_loaded{.*replica="(\w+)"} 1.0$', said.text, re.M)
    assert sorted(loaded) == sorted(cluster.replicas)


def test_errors_keep_their_shape(cluster: Cluster) -> None:
    check_error(cluster.client.post(CHAT, content=b"{"), 400)
    check_error(cluster.client.post(CHAT, json=asking(temperature=9)), 400, "temperature")
    check_error(cluster.client.post(CHAT, json=asking(model="nothing")), 404, "model")
    check_error(cluster.client.post("/models/load", json={"model": "smol"}), 400)
    check_error(cluster.client.get("/nothing"), 404)
    wrong = cluster.client.post("/v1/messages", json={}).json()
    assert wrong["type"] == "error" and wrong["error"]["type"] == "invalid_request_error"


def test_a_replica_that_dies_ends_its_streams_and_is_replaced(cluster: Cluster) -> None:
    session = {"x-session-id": "dies"}
    asked = asking("Tell a story.", max_tokens=1500, stream=True)
    with cluster.client.stream("POST", CHAT, json=asked, headers=session) as response:
        lines = (line for line in response.iter_lines() if line)
        for _ in range(3):
            assert "chat.completion.chunk" in next(lines)
        dead = home(response)
        cluster.ask("kill", dead)
        *_, last = lines
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "backend_error" and error["type"] == "server_error"
    again = cluster.client.post(CHAT, json=asking(), headers=session)
    assert again.status_code == 200 and home(again) != dead
    until(lambda: both_answer(cluster), 40)
    assert dead not in cluster.replicas


def test_answers_come_to_their_end_before_a_replica_leaves(cluster: Cluster) -> None:
    sessions: dict[str, str] = {}
    while len(sessions) < 2:
        name = f"stays {uuid.uuid4()}"
        sessions[home(cluster.client.get("/health", headers={"x-session-id": name}))] = name

    def stream(session: str) -> tuple[str, float]:
        """The last line, and when it came."""
        asked = asking("Tell a long story.", max_tokens=400, stream=True)
        given = {"headers": {"x-session-id": session}}
        with cluster.client.stream("POST", CHAT, json=asked, **given) as response:
            *_, last = (line for line in response.iter_lines() if line)
        return last, time.monotonic()

    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(stream, session) for session in sessions.values()]
        until(lambda: all(running(cluster, session) == 1 for session in sessions.values()))
        cluster.deploy(application(1))
        until(lambda: "STOPPING" in cluster.ask("states"))
        leaving = time.monotonic()
        ends = [stream.result() for stream in streams]
    assert all(last == "data: [DONE]" and came > leaving for last, came in ends)
    until(lambda: len(cluster.replicas) == 1, 30)
    assert chat(cluster, "Hello.")
