"""What a worker costs: rates here, over loopback, and over a cable between two namespaces.

    python tests/rpc_rates.py MODEL.gguf [THREADS] [ROUNDS]

Reading 512 tokens and decoding, one stream, with no layer, half of the layers and all of them on a
worker. The cable has 1 Gbit/s; the delay is the kernel's where it has netem, else a relay's.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from two_hosts import THERE, Unavailable, two_hosts
from workers import worker

from portable import gguf
from portable.engine.offload.shape import shape_of

PORT = "50052"
ONE_WAY = 0.00025  # seconds: 0.5 ms there and back
ASK = """
import sys, time
from portable.engine.rpc.hello import ask
ask(sys.argv[1])
begun = time.perf_counter()
ask(sys.argv[1])
print(time.perf_counter() - begun)
"""


def main() -> None:
    model, threads, rounds = Path(sys.argv[1]), *map(int, (*sys.argv[2:], 2, 3)[:2])
    half = len(shape_of([gguf.read(part) for part in gguf.shards(model)]).layers) // 2
    print(f"{model.name}, {threads} threads, medians of {rounds} rounds")
    rates("no worker", model, threads, rounds)
    with worker("--port", "0", "--threads", str(threads)) as lent:
        remote("loopback", model, threads, rounds, lent.endpoint, half)
    try:
        with two_hosts() as hosts:
            flags = ("--host", THERE, "--port", PORT, "--insecure", "--threads", str(threads))
            said = hosts.slow_down("1gbit", "0.25ms")
            with worker(*flags, prefix=hosts.there) as lent:
                remote(f"cable, {said}", model, threads, rounds, lent.endpoint, half, hosts.here)
                if "no delay" in said:
                    relay = [*hosts.here, sys.executable, __file__, "--relay", lent.endpoint]
                    with subprocess.Popen(relay, stdout=subprocess.PIPE, text=True) as delaying:
                        assert delaying.stdout
                        there = delaying.stdout.readline().strip()
                        name = "cable, 1gbit, and a relay of 0.25 ms each way"
                        remote(name, model, threads, rounds, there, half, hosts.here)
                        delaying.kill()
    except Unavailable as why:
        print(f"no cable: {why}")


def remote(
    name: str,
    model: Path,
    threads: int,
    rounds: int,
    endpoint: str,
    half: int,
    prefix: Sequence[str] = (),
) -> None:
    command = [*prefix, sys.executable, "-c", ASK, endpoint]
    seconds = float(subprocess.check_output(command, text=True))
    print(f"{name}: asking the worker takes {seconds * 1000:.2f} ms (four round trips)")
    for layers in ("all", str(half)):
        flags = ("--rpc", endpoint, "--gpu-layers", layers)
        rates(f"{name}, {layers} layers there", model, threads, rounds, flags, prefix)


def rates(
    name: str,
    model: Path,
    threads: int,
    rounds: int,
    flags: Sequence[str] = (),
    prefix: Sequence[str] = (),
) -> None:
    command = [*prefix, sys.executable, "-m", "portable.cli", "bench", str(model), "--json"]
    command += ["--prompt", "steps", "--requests", "1", "--threads", str(threads), *flags]
    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        said = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))
        first = said["costs"][0]
        found.append((first["prefill_rate"], first["decode_rate"]))
    reading, decoding = (statistics.median(rate) for rate in zip(*found))
    print(f"  {name}: reading {reading:.1f} tok/s, decoding {decoding:.1f}", flush=True)


# --- a relay that takes its time ---


def relay(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"127.0.0.1:{server.getsockname()[1]}", flush=True)
        while True:
            here, _ = server.accept()
            there = socket.create_connection((host, int(port)))
            for one, other in ((here, there), (there, here)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                threading.Thread(target=take, args=(one, late), daemon=True).start()
                threading.Thread(target=give, args=(other, late), daemon=True).start()


def take(sock: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        try:
            data = sock.recv(1 << 18)
        except OSError:
            data = b""
        late.put((time.perf_counter() + ONE_WAY, data))
        if not data:
            return


def give(sock: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, data = late.get()
        time.sleep(max(0.0, due - time.perf_counter()))
        try:
            sock.sendall(data)
        except OSError:
            return
        if not data:  # `close` alone would wait for the thread that reads from it
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            return


if __name__ == "__main__":
    if sys.argv[1] == "--relay":
        relay(sys.argv[2])
    else:
        main()
