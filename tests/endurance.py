"""Many bad days in minutes: kills, cancellations and a soak of a real server; prints figures.

    python tests/endurance.py kill 200       kill -9 of the model's process under load
    python tests/endurance.py cancel 5000    clients that leave at random moments
    python tests/endurance.py soak 30        minutes of eight clients with mixed lengths
    python tests/endurance.py crowd 500      idle connections, and 64 streams beside them

Not a part of the test run: it takes as long as it is told to. It fails where something leaks.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import httpx2
import psutil
from serving import CHAT, Server, asking, events, running, text_of, until
from test_server_cancel import leave, start

_STREAMS = 64
CANARY = "Count from one to twenty in words."
ENDLESS = {"max_tokens": 400, "logit_bias": {"2": -100, "0": -100}}


def canary(server: Server) -> str:
    reply = server.chat(CANARY, max_tokens=40).json()
    return str(reply["choices"][0]["message"]["content"])


def figures(server: Server) -> dict[str, float]:
    """What must not grow: memory in MB, and descriptors, of the server and of the model."""
    own, child = psutil.Process(server.process.pid), server.child
    return {
        "server_mb": round(own.memory_info().rss / 1e6, 1),
        "model_mb": round(child.memory_info().rss / 1e6, 1),
        "server_files": own.num_fds(),
        "server_threads": own.num_threads(),
        "model_files": child.num_fds(),
        "model_threads": child.num_threads(),
    }


def load(server: Server, clients: int, stop: threading.Event, seen: Counter[str]) -> Any:
    """`clients` threads that ask without a pause; how each request ended is counted in `seen`."""

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        with httpx2.Client(timeout=120, trust_env=False) as client:
            while not stop.is_set():
                fields = {"max_tokens": draw.randrange(1, 120), "stream": draw.random() < 0.5}
                body = asking(f"{draw.random()} " + "word " * draw.randrange(1, 120), **fields)
                try:
                    reply = client.post(server.url + CHAT, content=json.dumps(body).encode())
                    bad = b'"error"' in reply.content
                    seen["error" if bad else str(reply.status_code)] += 1
                except httpx2.TransportError as error:
                    seen[type(error).__name__] += 1

    pool = ThreadPoolExecutor(clients)
    for seed in range(clients):
        pool.submit(ask, seed)
    return pool


def kill(server: Server, count: int) -> dict[str, Any]:
    """Each time: the requests it held end with an error, the next one is answered."""
    stop, seen, back = threading.Event(), Counter[str](), []
    pool = load(server, 4, stop, seen)
    for _ in range(count):
        time.sleep(random.uniform(0, 0.4))
        until(server.is_ready, 30)
        pid = server.child.pid
        psutil.Process(pid).kill()
        died = time.monotonic()
        until(lambda pid=pid: _other_child(server, pid), 60)
        until(server.is_ready, 60)
        back.append(time.monotonic() - died)
        assert server.chat(max_tokens=1).status_code == 200
    stop.set()
    pool.shutdown()
    assert not seen.keys() - {"200", "error"}, seen
    return {
        "kills": count,
        "seconds_until_ready_again": {
            "median": round(statistics.median(back), 2),
            "worst": round(max(back), 2),
        },
        "requests": dict(seen),
    }


def _other_child(server: Server, pid: int) -> bool:
    children = psutil.Process(server.process.pid).children()
    return any(child.pid != pid for child in children)


def cancel(server: Server, count: int) -> dict[str, Any]:
    """Requests of every kind, left after a random time; the engine must hold none 2 s later."""
    left = Counter[str]()

    def one(number: int) -> None:
        draw = random.Random(number)
        words = draw.choice((1, 20, 400))
        stream = draw.random() < 0.5
        sock = start(server, text=f"{number} " + "word " * words, stream=stream, **ENDLESS)
        time.sleep(draw.choice((0, 0.01, 0.1, 0.3)) * draw.random())
        sock.settimeout(0.001)
        try:
            left["answering" if sock.recv(1 << 16) else "closed"] += 1
        except TimeoutError:
            left["silent"] += 1
        leave(sock)

    with ThreadPoolExecutor(24) as pool:
        for first in range(0, count, 500):
            list(pool.map(one, range(first, min(first + 500, count))))
            server.wait_idle(5)
    return {"cancelled": count, "when_left": dict(left)}


def soak(server: Server, minutes: int) -> dict[str, Any]:
    """Eight clients; memory each minute."""
    stop, seen, memory = threading.Event(), Counter[str](), []
    pool = load(server, 8, stop, seen)
    for _ in range(minutes):
        time.sleep(60)
        memory.append(figures(server)["model_mb"])
    stop.set()
    pool.shutdown()
    assert set(seen) == {"200"}, seen
    return {"minutes": minutes, "requests": seen["200"], "model_mb_each_minute": memory}


def crowd(server: Server, count: int) -> dict[str, Any]:
    """`count` connections wait beside 64 streams; none is lost, and each waiting one works."""
    own = psutil.Process(server.process.pid)
    before = own.memory_info().rss

    async def run() -> dict[str, Any]:
        idle = [await Idle.open(server) for _ in range(count)]
        with_idle = own.memory_info().rss
        texts = await asyncio.gather(*(_streamed(server, number) for number in range(_STREAMS)))
        with_streams = own.memory_info().rss
        assert all(texts), "a stream said nothing"
        answers = [await connection.ask() for connection in idle]
        for connection in idle:
            connection.writer.close()
        return {
            "idle": count,
            "idle_that_still_answer": answers.count(True),
            "streams_to_their_end": len(texts),
            "kb_an_idle_connection": round((with_idle - before) / count / 1000, 1),
            "kb_a_stream": round((with_streams - with_idle) / _STREAMS / 1000, 1),
        }

    found = asyncio.run(run())
    assert found["idle_that_still_answer"] == count
    return found


class Idle:
    """A connection that asks now and then."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, server: Server) -> Idle:
        made = cls(*await asyncio.open_connection("127.0.0.1", server.port))
        assert await made.ask()
        return made

    async def ask(self) -> bool:
        self.writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", head)
        await self.reader.readexactly(int(length))
        return head.startswith(b"HTTP/1.1 200")


async def _streamed(server: Server, number: int) -> str:
    """The text of one stream, with a usage of as many tokens as were asked for."""
    async with httpx2.AsyncClient(timeout=300, trust_env=False) as client:
        body = asking(f"{number}: tell a story", stream=True, **(ENDLESS | {"max_tokens": 24}))
        reply = await client.post(server.url + CHAT, json=body)
        chunks = events(reply)
        assert chunks[-1]["usage"]["completion_tokens"] == 24
        return text_of(chunks)


def main() -> None:
    jobs: dict[str, Callable[[Server, int], dict[str, Any]]]
    jobs = {"kill": kill, "cancel": cancel, "soak": soak, "crowd": crowd}
    job, number = jobs[sys.argv[1]], int(sys.argv[2])
    with running({"context": 8192}) as server:
        before_text = canary(server)
        # Warm: threads exist, and the buffers of the whole context were touched once.
        whole = asking("word " * 8000, max_tokens=1)
        assert server.post(CHAT, whole, timeout=600).status_code == 200
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: server.chat(f"{i} " + "word " * 60, max_tokens=20), range(16)))
        before = figures(server)
        result = job(server, number)
        server.wait_idle(10)
        after = figures(server)
        result |= {"before": before, "after": after, "restarts": server.meta()["restarts"]}
        result["canary_same"] = canary(server) == before_text
        print(json.dumps(result, indent=1))
        assert result["canary_same"]
        assert after["server_files"] <= before["server_files"] + 4


if __name__ == "__main__":
    main()
