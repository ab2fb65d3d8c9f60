"""A real Chromium for tests of the web page, and what it noticed while they ran."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

_PATIENCE = 20_000  # milliseconds: test machines are busy
expect.set_options(timeout=_PATIENCE)
# Containers run as root, where Chromium's own sandbox does not start, and have little shared
# memory. A name that is not this machine's makes a page that a browser trusts less.
ELSEWHERE = "portable.test"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
]
ANSWER = "**/v1/chat/completions"


# Not for the whole session: while Playwright runs, this thread can have no other event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Not skipped where it is missing: then nobody would have looked."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "Chromium is missing: apt install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """One visitor of one server: the page, and the complaints and requests that it made.

    `foreign` are the requests that went anywhere but to the server; there must never be one.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._went(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        # Chromium writes each 4xx and 5xx to the console, also those that a test wants.
        if message.type in ("error", "warning") and "the server responded with" not in message.text:
            self.complaints.append(message.text)

    def _went(self, url: str) -> None:
        if urlsplit(url).scheme not in ("blob", "data") and not url.startswith(self.url + "/"):
            self.foreign.append(url)

    def open(self) -> Visit:
        self.page.goto(self.url + "/")
        return self.ready()

    def ready(self) -> Visit:
        """Wait until the list of models is there."""
        self.page.locator("#model option:not([value=''])").first.wait_for(state="attached")
        return self

    def ask(self, text: str) -> None:
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")

    def asked(self, text: str) -> None:
        """Ask, and wait for the end of the answer."""
        self.ask(text)
        self.page.locator("#send").wait_for(state="visible")

    def answers(self, body: str, status: int = 200, **headers: str) -> None:
        """From here on the server's answer to a chat request is this one."""

        def fulfil(route: Route) -> None:
            kind = {"content-type": "text/event-stream"}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            route.fulfill(status=status, headers=kind | named, body=body)

        self.page.unroute(ANSWER)
        self.page.route(ANSWER, fulfil)

    def last(self) -> Any:
        """The last answer's text."""
        return self.page.locator(".assistant .text").last

    def check(self) -> None:
        assert not self.foreign
        assert not self.complaints


@contextlib.contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A visitor with a profile of its own; whatever the browser complains of fails the test."""
    context = browser.new_context(**{"locale": "en-US"} | options)
    context.set_default_timeout(_PATIENCE)
    visit = Visit(context.new_page(), url)
    yield visit
    visit.check()
    context.close()


def stream(text: str, *, reasoning: str = "", error: dict[str, Any] | None = None) -> str:
    """A server's answer as it goes over the wire, a few characters a chunk."""
    lines = [_chunk(role="assistant", content="")]
    lines += [_chunk(reasoning_content=reasoning)] if reasoning else []
    lines += [_chunk(content=text[at : at + 7]) for at in range(0, len(text), 7)]
    if error:
        return _data(*lines, {"error": error})
    timings = {"queue_seconds": 0, "prompt_seconds": 0.5, "predicted_per_second": 41.27}
    used = {"prompt_tokens": 812, "completion_tokens": 231, "total_tokens": 1043}
    last = _chunk(finish_reason="stop", content="") | {"timings": timings}
    return _data(*lines, last, {"choices": [], "usage": used}) + "data: [DONE]\n\n"


def _chunk(finish_reason: str | None = None, **delta: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _data(*events: dict[str, Any]) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)
