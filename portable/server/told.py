"""What is said of where a model runs whenever its process starts or is timed, and how it ended."""

from __future__ import annotations

import logging

from portable.engine import death
from portable.engine.backend import ModelInfo
from portable.engine.findings import RELOAD, Finding
from portable.engine.places import slow
from portable.engine.protocol import Ready
from portable.errors import EngineError, NotEnoughMemory, OutOfMemory, PortableError

log = logging.getLogger("portable")


def started(event: Ready, before: ModelInfo | None, *, slept: bool) -> list[Finding]:
    """What is wrong with where it runs, or worse than `before`, if the machine `slept` since."""
    found = list(event.findings)
    if before and event.info.offloaded < before.offloaded and slept:
        what = f"{event.info.offloaded} layers are on GPUs, {before.offloaded} were there before"
        found.append(Finding("resumed", f"{what} the machine slept", RELOAD))
    for finding in found:
        log.log(logging.INFO if finding.note else logging.WARNING, "%s", finding)
    return found


def timed(info: ModelInfo, token_seconds: float) -> list[Finding]:
    """Single tokens were timed after loading: whether it can be a GPU that computes them."""
    rate = 1 / token_seconds
    log.info("one request alone gets %.*f tokens/s here", 0 if rate > 10 else 1, rate)
    doubt = slow(info.places, token_seconds)
    if doubt:
        log.warning("%s", doubt)
    return [doubt] if doubt else []


def died(code: int, *, by_us: bool) -> EngineError:
    """Why a process of a model ended that was at work; `by_us` if we killed it."""
    what, then = "the model's process died", "it is starting again"
    if code == OutOfMemory.exit_code:
        what, then = "the model's process ran out of memory", "it starts again and takes less"
    elif death.name(code) == "SIGKILL" and not by_us:
        what += ": it was killed, probably by the system because memory ran out"
    return EngineError(what, hint=then)


def unloadable(code: int, starts: int) -> PortableError:
    """Why a model is given up, whose process died so often while it loaded."""
    if death.name(code) == "SIGKILL":
        return NotEnoughMemory(
            f"the model's process was killed {starts} times while it loaded, probably by the system"
            " because memory ran out",
            hint="try a smaller --context or a smaller --quant, or close other programs",
        )
    return EngineError(
        f"the model's process died {starts} times while it loaded, the last time by"
        f" {death.name(code)}",
        hint="portable verify FILE looks at the model, portable doctor at the machine",
    )
