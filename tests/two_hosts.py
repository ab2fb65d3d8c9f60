"""Two hosts on one cable, as network namespaces of this machine: they share nothing but it.

Nothing needs to be cleaned up: the namespaces end with the processes that hold them.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

HERE, THERE = "10.77.0.1", "10.77.0.2"


class Unavailable(Exception):
    """This machine gives no namespaces, or no cables between them; says why."""


class Hosts:
    """`here` and `there` are the beginnings of commands that run on each host."""

    def __init__(self, here: int, there: int) -> None:
        enter = ["nsenter", "-U", "-n", "--preserve-credentials", "-t"]
        self.here = [*enter, str(here)]
        self.there = [*enter, str(there)]
        self._cable(there)

    def slow_down(self, rate: str, delay: str = "") -> str:
        """Limit the cable, in both directions; returns what the kernel can do of it."""
        with contextlib.suppress(Unavailable):
            for host, end in ((self.here, "left"), (self.there, "right")):
                how = ["netem", "delay", delay, "rate", rate]
                _run(*host, "tc", "qdisc", "replace", "dev", end, "root", *how)
            return f"{rate}, {delay} each way"
        for host, end in ((self.here, "left"), (self.there, "right")):
            how = ["tbf", "rate", rate, "burst", "256kbit", "latency", "50ms"]
            _run(*host, "tc", "qdisc", "replace", "dev", end, "root", *how)
        return f"{rate}, no delay (this kernel has no netem)"

    def _cable(self, there: int) -> None:
        _run(*self.here, "ip", "link", "add", "left", "type", "veth", "peer", "name", "right")
        _run(*self.here, "ip", "link", "set", "right", "netns", str(there))
        for host, end, address in ((self.here, "left", HERE), (self.there, "right", THERE)):
            _run(*host, "ip", "address", "add", f"{address}/24", "dev", end)
            _run(*host, "ip", "link", "set", end, "up")
            _run(*host, "ip", "link", "set", "lo", "up")


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Raises Unavailable where the system forbids it."""
    with contextlib.ExitStack() as stack:
        here = _hold(stack, "unshare", "-r", "-n")
        there = _hold(
            stack, "nsenter", "-U", "--preserve-credentials", "-t", str(here), "unshare", "-n"
        )
        yield Hosts(here, there)


def _hold(stack: contextlib.ExitStack, *command: str) -> int:
    """A process that keeps a namespace alive until the test ends."""
    try:
        held = subprocess.Popen(
            [*command, "sh", "-c", "echo made; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is missing") from None
    stack.callback(_release, held)
    assert held.stdout and held.stderr
    if not held.stdout.readline():
        raise Unavailable(held.stderr.read().strip())
    return held.pid


def _release(held: subprocess.Popen[str]) -> None:
    held.communicate("")


def _run(*command: str) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is missing") from None
    if ended.returncode:
        raise Unavailable(f"{' '.join(command)}: {ended.stderr.strip()}")
