"""Whether ModelScope and Hugging Face answer: each lists the default model, as `portable` does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portable import catalogue, hub
from portable.doctor.finding import Finding
from portable.errors import PortableError, plain

SECONDS = 3.0


@dataclass(frozen=True)
class Reach:
    """One hub: what it took to answer in `seconds`, or what went wrong; `variable` moves it."""

    title: str
    host: str
    variable: str
    seconds: float = 0.0
    trouble: str = ""


def gather() -> list[Reach] | None:
    """All of them at once; None: offline is wished for."""
    if hub.offline_by_environment():
        return None
    end = time.monotonic() + SECONDS
    model = catalogue.load()[catalogue.DEFAULT]
    asked = [_Asked(hub.connect(key), model.on(key)) for key in hub.TITLES]
    return [each.reach(end) for each in asked]


class _Asked:
    """Asks when it is made. A thread, for a client tries for long and cannot be stopped."""

    def __init__(self, site: hub.Hub, repo: str) -> None:
        self._site, self._repo = site, repo
        self._seconds, self._trouble = 0.0, ""
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        started = time.monotonic()
        try:
            self._site.listing(self._repo)
        except PortableError as error:  # a mirror without the model, or a proxy's page, too
            self._trouble = error.message
        except Exception as error:
            self._trouble = plain(f"{self._site.title}: {type(error).__name__}: {error}")
        self._seconds = time.monotonic() - started

    def reach(self, end: float) -> Reach:
        self._thread.join(max(0.0, end - time.monotonic()))
        site = self._site
        trouble = self._trouble
        if self._thread.is_alive():
            trouble = f"{site.title} ({site.host}) does not finish its answer in {SECONDS} s"
        return Reach(site.title, site.host, site.endpoint_variable, self._seconds, trouble)


def judge(facts: Sequence[Reach] | None) -> Iterator[Finding]:
    if facts is None:
        yield Finding("hubs", "OK", "not asked: offline")
        return
    good = [reach for reach in facts if not reach.trouble]
    for reach in facts:
        if not reach.trouble:
            found = f"{reach.title} ({reach.host}) answers in {reach.seconds:.1f} s"
            yield Finding("hub", "OK", found)
        elif good:
            yield Finding("hub", "WARN", f"{reach.trouble}: {good[0].title} is taken", _mend(reach))
        else:
            what = f"{reach.trouble}: models on this disk go on working (--offline)"
            yield Finding("hub", "WARN", what, _mend(reach))


def _mend(reach: Reach) -> str:
    return f"check the network and HTTPS_PROXY, or name a mirror in {reach.variable}"
