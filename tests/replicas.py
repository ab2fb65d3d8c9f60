"""A Ray cluster of its own for tests, and what `serve run` puts on it; run as a script, its head.

Bounded in CPUs and memory, without a dashboard, in a folder of its own; all its processes carry a
mark in their environment by which the last of them is found.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
from serving import ROOT

MARK = "PORTABLE_TEST_CLUSTER"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would tell its makers
    # How often the number of waiting requests is told: 10 s otherwise.
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}


class Cluster:
    """The head, in a process of its own, and a client of what it serves."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = folder
        self.env = {**os.environ, **QUIET, MARK: self.mark, "PYTHONPATH": str(ROOT)}
        self.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
        with (folder / "head.log").open("wb") as log:
            self.head = subprocess.Popen(
                [sys.executable, __file__, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.env,
                text=True,
            )
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx2.Client(base_url=self.url, timeout=60, trust_env=False)
        self._address = ""

    def deploy(self, *applications: dict[str, Any]) -> None:
        """`serve run` with a config of these, which Ray goes on with by itself. JSON is YAML."""
        self._address = self._address or self.ask()
        file = self.folder / "config.yaml"
        listens = {"host": "127.0.0.1", "port": self.port}
        file.write_text(
            json.dumps({"http_options": listens, "applications": applications}), encoding="utf-8"
        )
        command = [serve_command(), "run", "--non-blocking", "-a", self._address, file]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def is_up(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return self.client.get("/health").status_code == 200
        return False

    def ask(self, *words: str) -> Any:
        """What the head says to a command."""
        assert self.head.stdin and self.head.stdout
        if words:
            print(*words, file=self.head.stdin, flush=True)
        line = self.head.stdout.readline()
        assert line, (self.folder / "head.log").read_text(encoding="utf-8")
        return json.loads(line)

    @property
    def replicas(self) -> list[str]:
        """Ids of the servers that live."""
        found: list[str] = self.ask("replicas")
        return found

    def processes(self) -> list[psutil.Process]:
        """All that belong to it, whoever their parents are."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def end(self) -> list[psutil.Process]:
        """Nothing is left behind, whatever happened; what would have been is told."""
        self.client.close()
        assert self.head.stdin and self.head.stdout
        self.head.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.head.wait(20)
        _, left = psutil.wait_procs(self.processes(), 10)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.head.wait(10)
        self.head.stdout.close()
        return left


def serve_command() -> Path:
    return Path(sys.executable).with_name("serve")


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    # Ray makes sockets in there, whose paths must be short.
    with tempfile.TemporaryDirectory(
        prefix="ray", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        cluster = Cluster(Path(folder))
        try:
            yield cluster
        finally:
            left = cluster.end()
        assert not left


def main() -> None:
    import ray
    from ray import serve
    from ray.util import list_named_actors

    ray.init(
        num_cpus=4,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
        namespace="serve",
        _temp_dir=sys.argv[1],
    )
    print(json.dumps(ray.get_runtime_context().gcs_address), flush=True)
    for line in sys.stdin:
        names = {n.rsplit("#", 1)[1]: n for n in list_named_actors() if "#Server#" in n}
        match line.split():
            case ["replicas"]:
                print(json.dumps(list(names)), flush=True)
            case ["states"]:
                apps = serve.status().applications.values()
                states = [app.deployments["Server"].replica_states for app in apps]
                print(json.dumps(states[0]), flush=True)
            case ["kill", id]:
                ray.kill(ray.get_actor(names[id]))
                print(json.dumps(id), flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
