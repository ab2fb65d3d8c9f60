"""Rates of a server on the device beside llama-server, built from the same source, as a table.

python tests/gpu/rates.py --llama-server build/bin/llama-server --model FILE.gguf
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONTEXT = 32768
CLIENTS = (1, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--layers", default="all", help="on the device")
    given = parser.parse_args()
    rows = [("portable serve", _ours(given))]
    if given.llama_server:
        rows.append(("llama-server", _theirs(given)))
    print("\n".join(table(rows)))


def table(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Markdown: a row for each program and number of clients."""
    lines = ["| | clients | first token, s | tok/s of one | tok/s together | failed |"]
    lines.append("|---|---|---|---|---|---|")
    for name, report in rows:
        for level in report["levels"]:
            first, one = level["first_median"] or 0.0, level["decode_rate"] or 0.0
            lines.append(
                f"| {name} | {level['clients']} | {first:.3f} | {one:.1f}"
                f" | {level['throughput']:.1f} | {level['errors']} |"
            )
    return lines


def _ours(given: argparse.Namespace) -> dict[str, Any]:
    port = _port()
    command = [sys.executable, "-P", "-m", "portable.cli", "serve", str(given.model)]
    command += ["--port", str(port), "--context", str(CONTEXT), "--gpu-layers", given.layers]
    with _server(command, port):
        return _bench(port, given.tokens)


def _theirs(given: argparse.Namespace) -> dict[str, Any]:
    port = _port()
    layers = "999" if given.layers == "all" else given.layers
    command = [str(given.llama_server), "-m", str(given.model), "--port", str(port), "-ngl", layers]
    command += ["-c", str(CONTEXT), "-np", str(max(CLIENTS)), "--kv-unified"]
    with _server(command, port):
        return _bench(port, given.tokens)


@contextlib.contextmanager
def _server(command: list[str], port: int) -> Iterator[None]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=env)
        try:
            _wait(process, port)
            yield
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read().decode("utf-8", "replace")[-4000:])
            raise
        finally:
            process.terminate()
            process.wait(30)


def _wait(process: subprocess.Popen[bytes], port: int, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{_url(port)}/health"):
            return
        time.sleep(0.2)
    raise RuntimeError("the server did not start")


def _bench(port: int, tokens: int) -> dict[str, Any]:
    clients = ",".join(map(str, CLIENTS))
    command = [sys.executable, "-P", "-m", "portable.cli", "bench", _url(port), "--json"]
    done = subprocess.run(
        [*command, "--clients", clients, "--max-tokens", str(tokens)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
