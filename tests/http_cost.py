"""What a server's HTTP layer costs: a request, and a streamed token; prints figures.

    python tests/http_cost.py URL [CLIENTS]

A request is one token of a prompt that the server has just read: all but one decode is overhead.
A streamed token is what streaming adds to an answer that is as long and comes whole. Where the
server's HTTP layer is a process of its own, `PID=...` in the environment tells its CPU time too.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil

REQUESTS, TOKENS, ROUNDS = 40, 192, 3
BODY = {"messages": [{"role": "user", "content": "Tell me of the sea."}], "temperature": 0}
ENDLESS = {"max_tokens": TOKENS, "logit_bias": {"2": -100, "0": -100}}


class Target:
    """A server, and the CPU time of its HTTP process if it is known."""

    def __init__(self, url: str, clients: int) -> None:
        self.url = url.rstrip("/") + "/v1/chat/completions"
        self.pool = ThreadPoolExecutor(clients)
        self.clients = [httpx2.Client(timeout=300, trust_env=False) for _ in range(clients)]
        self.process = psutil.Process(int(os.environ["PID"])) if "PID" in os.environ else None

    def cpu(self) -> float:
        return sum(self.process.cpu_times()[:2]) if self.process else 0.0

    def at_once(self, **fields: object) -> tuple[float, float]:
        """Wall and CPU seconds until each client has its answer."""
        body = json.dumps(BODY | fields).encode()
        headers = {"content-type": "application/json"}

        def ask(client: httpx2.Client) -> None:
            reply = client.post(self.url, content=body, headers=headers)
            assert reply.status_code == 200, reply.text

        wall, cpu = time.perf_counter(), self.cpu()
        list(self.pool.map(ask, self.clients))
        return time.perf_counter() - wall, self.cpu() - cpu


def main() -> None:
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    target = Target(sys.argv[1], clients)
    target.at_once(max_tokens=1)
    requests = [target.at_once(max_tokens=1) for _ in range(REQUESTS)]
    rounds = [
        (target.at_once(**ENDLESS), target.at_once(stream=True, **ENDLESS)) for _ in range(ROUNDS)
    ]
    added = [(streamed[0] - whole[0]) / TOKENS for whole, streamed in rounds]
    found = {
        "clients": clients,
        "ms_a_request": round(1000 * statistics.median(wall for wall, _ in requests) / clients, 2),
        "ms_a_token_whole": round(1000 * statistics.median(w[0] for w, _ in rounds) / TOKENS, 3),
        "ms_that_streaming_adds_to_a_token": round(1000 * statistics.median(added), 3),
    }
    if target.process:
        found["cpu_ms_a_request"] = round(
            1000 * sum(cpu for _, cpu in requests) / REQUESTS / clients, 2
        )
        streamed = sum(s[1] for _, s in rounds) / (ROUNDS * TOKENS * clients)
        found["cpu_ms_a_streamed_token"] = round(1000 * streamed, 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
