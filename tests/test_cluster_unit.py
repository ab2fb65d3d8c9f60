"""What a cluster decides, without a cluster: sessions, the router's choice, the ingress."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import click
import httpx2
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import ServeDeploySchema
from replicas import serve_command
from serving import CHAT, ROOT, asking, check_error

from portable.cluster import app
from portable.cluster.build import settled
from portable.cluster.ingress import Ingress, _Answer
from portable.cluster.metrics import merged
from portable.cluster.router import BOUND, SessionRouter
from portable.cluster.server import Server
from portable.cluster.session import Session, session
from portable.errors import UsageError
from portable.server.config import ServerConfig

USER = {"role": "user", "content": "Hello."}
HOME = "0123456789abcdef"


def told(path: str = CHAT, headers: dict[str, str] | None = None, **body: Any) -> Session:
    return session(path, headers or {}, json.dumps(body).encode())


def test_a_conversation_is_known_by_its_beginning() -> None:
    first = told(model="a", messages=[{"role": "system", "content": "Be kind."}, USER])
    later = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Go on."}]
    system = {"role": "system", "content": "Be kind."}
    assert first == told(model="a", messages=[system, USER, *later], temperature=1, stream=True)
    assert first.key and not first.bound
    others = [
        told(model="b", messages=[system, USER]),
        told(model="a", messages=[USER]),
        told(model="a", messages=[{"role": "system", "content": "Be rude."}, USER]),
        told(model="a", messages=[system, {"role": "user", "content": "Bye."}]),
        told("/v1/messages", model="a", system="Be kind.", messages=[USER]),
        told("/v1/completions", model="a", prompt="Once upon a time"),
    ]
    assert len({found.key for found in (first, *others)}) == 7


def test_a_name_wins_over_the_beginning() -> None:
    named = told(messages=[USER], prompt_cache_key="mine")
    assert named == told(messages=[{"role": "user", "content": "?"}], prompt_cache_key="mine")
    header = {"x-session-id": "theirs"}
    assert told(headers=header, messages=[USER], prompt_cache_key="mine") == told(headers=header)
    assert session("/v1/models", header, b"") == told(headers=header)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"messages": 1}',
        b"\xff",
        b'{"input": ["a", "b"]}',
        b'{"input": "a"}',
        pytest.param(b'{"model": ' + b"[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_conversation_has_no_session(body: bytes) -> None:
    assert session("/v1/embeddings", {}, body) == Session()


def test_a_stored_response_binds() -> None:
    path = "/v1/responses"
    first = told(path, input="Hello.")
    assert first.bound and first.key and first == told(path, input="Hello.", store=True)
    assert told(path, input=[USER]).bound
    assert not told(path, input="Hello.", store=False).bound
    id = f"resp_{HOME}{'0' * 32}"
    known = Session(HOME, bound=True)
    assert told(path, input="Go on.", previous_response_id=id, store=False) == known
    assert told(path + "/input_tokens", input="?", previous_response_id=id) == known
    assert session(f"/responses/{id}", {}, b"") == known
    assert session("/v1/responses/resp_1", {}, b"") == Session()


def routed(sessions: list[str], count: int, room: int = 3) -> list[list[list[str]]]:
    """The ranks of replicas for each session, of `count` that are a, b, c …"""

    async def choose() -> list[list[list[str]]]:
        deployment = DeploymentID(name="Server", app_name="portable")
        router = SessionRouter(deployment, DeploymentHandleSource.REPLICA)
        router.initialize_state(num_fallback_replicas=room)
        ids = [ReplicaID(chr(ord("a") + at), deployment) for at in range(count)]
        queue = {"max_ongoing_requests": 2, "get_queue_len": no_queue}
        replicas = [SimpleNamespace(replica_id=id, node_id="", **queue) for id in ids]
        router.update_replicas(replicas)
        found = []
        for at, name in enumerate(sessions):
            asked = {"session_id": name, "internal_request_id": str(at)}
            pending = SimpleNamespace(
                metadata=SimpleNamespace(**asked), routing_context=SimpleNamespace()
            )
            ranks = await router.choose_replicas(replicas, pending)
            found.append([[one.replica_id.unique_id for one in rank] for rank in ranks])
        return found

    async def no_queue(*, deadline_s: float) -> int:
        return 0

    return asyncio.run(choose())


def test_a_session_has_one_replica_and_others_for_want_of_room() -> None:
    names = [f"s{at}" for at in range(60)]
    before = routed(names, 3)
    assert before == routed(names, 3)
    assert all(sorted(ranks) == [["a"], ["b"], ["c"]] for ranks in before)
    assert {ranks[0][0] for ranks in before} == {"a", "b", "c"}
    # When a replica comes, only those sessions move that move to it.
    after = routed(names, 4)
    moved = [new[0] for old, new in zip(before, after) if new[0] != old[0]]
    assert moved and all(rank == ["d"] for rank in moved)


def test_a_bound_session_waits_for_its_replica() -> None:
    assert all(len(ranks) == 1 for ranks in routed([f"s{at}{BOUND}" for at in range(9)], 3))


def test_a_request_without_a_session_goes_to_the_least_busy() -> None:
    found = routed([""] * 20, 3)
    assert all(len(ranks) == 1 and sorted(ranks[0]) == ["a", "b", "c"] for ranks in found)
    assert len({ranks[0][0] for ranks in found}) > 1  # of equally busy ones not always the same


class Servers:
    """A stand-in for Ray's handle: each answer in turn is messages, then perhaps an error."""

    def __init__(self, *answers: tuple[list[Any], Exception | None]) -> None:
        self.answers = list(answers)
        self.sessions: list[str] = []
        self.asked: list[tuple[dict[str, Any], bytes]] = []
        self.cancelled = 0
        self.endless = False
        self.answer = self

    def options(self, **given: Any) -> Servers:
        self.sessions += [given["session_id"]] if "session_id" in given else []
        return self

    def remote(self, scope: dict[str, Any], body: bytes) -> Any:
        self.asked.append((scope, body))
        messages, error = self.answers.pop(0)
        servers = self

        class Answer:
            async def __aiter__(self) -> AsyncIterator[Any]:
                for message in messages:
                    yield message
                if error:
                    raise error
                if servers.endless:
                    await asyncio.sleep(60)

            def cancel(self) -> None:
                servers.cancelled += 1

        return Answer()


def head(kind: str = "application/json") -> dict[str, Any]:
    headers = [(b"content-type", kind.encode())]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def part(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def ask(
    servers: Servers,
    path: str = CHAT,
    *,
    client: str = "127.0.0.1",
    headers: dict[str, str] | None = None,
    body: Any = None,
    **config: Any,
) -> httpx2.Response:
    async def call() -> httpx2.Response:
        ingress = Ingress(servers, ServerConfig(**config)).__serve_build_asgi_app__()
        transport = httpx2.ASGITransport(ingress, client=(client, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
            return await made.post(path, json=body or asking(), headers=headers)

    return asyncio.run(call())


def test_an_answer_is_passed_on() -> None:
    servers = Servers(([head(), part(b"{}")], None))
    response = ask(servers, headers={"x-session-id": "mine"})
    assert response.status_code == 200 and response.json() == {}
    ((scope, body),) = servers.asked
    assert json.loads(body) == asking() and scope["path"] == CHAT
    assert servers.sessions == [told(headers={"x-session-id": "mine"}).key]


def test_who_leaves_takes_the_request_along() -> None:
    async def leave() -> None:
        servers = Servers(([head(), part(b"{", more=True)], None))
        servers.endless = True
        answer = _Answer(CHAT, nobody)
        passing = asyncio.create_task(answer.passed_on(servers.remote({}, b"")))
        await asyncio.sleep(0.01)
        assert not passing.done() and not servers.cancelled
        passing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await passing
        assert servers.cancelled == 1

    async def nobody(message: Any) -> None: ...

    asyncio.run(leave())


def test_a_response_is_told_its_home() -> None:
    servers = Servers(([head(), part(b"{}")], None))
    ask(servers, "/v1/responses", body={"input": "Hello."})
    home = servers.asked[0][0]["portable.home"]
    assert servers.sessions == [home + BOUND] and len(home) == len(HOME)


def test_all_replicas_busy_is_429() -> None:
    response = ask(Servers(([], BackPressureError(num_queued_requests=9, max_queued_requests=9))))
    assert check_error(response, 429)["code"] == "queue_full"
    assert int(response.headers["retry-after"]) > 0


def test_a_death_before_the_first_byte_gets_a_second_try() -> None:
    good = ([head(), part(b"{}")], None)
    servers = Servers(([], RayActorError()), good)
    assert ask(servers).status_code == 200
    assert len(servers.asked) == 2
    response = ask(Servers(([], RayActorError()), ([], RayActorError()), good))
    assert check_error(response, 500)["code"] == "backend_error"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (CHAT, b'data: {"error":{"message":"the replica died'),
        ("/v1/messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error"'),
        ("/v1/responses", b'event: error\ndata: {"type":"error","code":"backend_error"'),
    ],
)
def test_a_stream_that_breaks_off_says_so(path: str, said: bytes) -> None:
    begun = [head("text/event-stream; charset=utf-8"), part(b"data: {}\n\n", more=True)]
    response = ask(Servers((begun, RayActorError())), path, body={"input": "Hello."})
    assert response.content.removeprefix(b"data: {}\n\n").startswith(said)


def test_a_whole_answer_that_breaks_off_is_none() -> None:
    with pytest.raises(Exception, match="already started"):
        ask(Servers(([head(), part(b"{", more=True)], RayActorError())))


def test_without_a_key_only_this_machine_is_served() -> None:
    nobody = Servers()
    assert check_error(ask(nobody, client="10.0.0.9"), 403)["code"] == "api_key_required"
    check_error(ask(nobody, api_keys=("k",)), 401)
    check_error(ask(nobody, max_body=9), 413)
    check_error(ask(nobody, headers={"host": "evil.example"}), 403)
    assert not nobody.asked
    key = {"authorization": "Bearer k"}
    served = Servers(([head(), part(b"{}")], None))
    assert ask(served, client="10.0.0.9", headers=key, api_keys=("k",)).status_code == 200


def test_metrics_of_replicas_are_told_apart() -> None:
    def told(count: int) -> str:
        registry = CollectorRegistry()
        Counter("asked", "Requests.", ["model"], registry=registry).labels('a"b').inc(count)
        Histogram("took", "Seconds.", buckets=[1], registry=registry).observe(count)
        return generate_latest(registry).decode()

    lines = merged({"r1": told(1), "r2": told(2)}).decode().splitlines()
    assert lines.count("# TYPE asked_total counter") == 1
    assert 'asked_total{model="a\\"b",replica="r1"} 1.0' in lines
    assert 'asked_total{model="a\\"b",replica="r2"} 2.0' in lines
    assert 'took_bucket{le="1.0",replica="r2"} 0.0' in lines
    assert merged({}) == b""


def test_args_are_serves_flags_and_how_many_replicas() -> None:
    replicas, flags = settled({"model": "m", "max_replicas": "3", "num-gpus": "0.5", "threads": 9})
    assert (replicas.max_replicas, replicas.num_gpus, flags.running.threads) == (3, 0.5, 9)
    assert flags.source.model == "m" and flags.serving.parallel == str(replicas.parallel)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle": "m"},
        {"threads": "many"},
        {"port": 80},
        {"max_replicas": 0},
        {"min_replicas": 3, "max_replicas": 2},
        {"parallel": "auto"},
        {"num_cpus": "all"},
    ],
    ids=str,
)
def test_what_is_wrong_with_args_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="args") as caught:
        settled(wrong)
    assert len(str(caught.value)) < 150


def test_the_config_in_the_docs_is_one() -> None:
    text = (ROOT / "docs/CLUSTER.md").read_text(encoding="utf-8")
    config = ServeDeploySchema.model_validate(
        yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    )
    (application,) = config.applications
    module, name = application.import_path.split(":")
    assert getattr(importlib.import_module(module), name) is app
    replicas, flags = settled(application.args)
    assert replicas.max_replicas == 4 and flags.listening.host == "0.0.0.0"
    assert {d.name for d in application.deployments} == {Server.__name__, Ingress.__name__}


def test_beyond_this_machine_a_key_is_needed() -> None:
    with pytest.raises(click.ClickException, match="--api-key"):
        app({"model": "m", "host": "0.0.0.0"})


def test_what_is_wrong_is_one_line_for_who_runs_it() -> None:
    command = [serve_command(), "run", "portable.cluster:app", "modle=m"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Error: args: 'modle' is no flag (did you mean 'model'?)" in done.stderr


def without(module: str) -> str:
    code = f"import sys; sys.modules[{module!r}] = None\nimport portable.cluster"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1]


def test_without_ray_it_says_what_to_install() -> None:
    assert without("ray").endswith('replicas need Ray Serve: pip install "portable-llm[ray]"')
    assert "ray" not in without("msgspec")
