"""What the log says of where a model runs: whenever its process starts, and when it is timed."""

from __future__ import annotations

import logging

from portable.engine.backend import ModelInfo
from portable.engine.findings import RELOAD, Finding
from portable.engine.places import slow
from portable.engine.protocol import Ready

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
