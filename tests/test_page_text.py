"""What the web page makes of an answer: Markdown, attacks, errors; the answers are made up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from browser import ELSEWHERE, Visit, browser, stream, visiting
from playwright.sync_api import Browser, expect
from serving import Server, running

__all__ = ["browser"]
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
CODE = "```python\ndef f(a):\n    return a < 1 && b\n```"
RICH = f"""# Title
Some **bold**, *slanted*, ~~gone~~ and `co*de*` text,
snake_case_names, 2 * 3 * 4 and **重点**内容。

{CODE}

1. one
   - inner

   {CODE.replace(chr(10), chr(10) + "   ")}
2. two
- [x] done

> quoted **text**

| a | b `x|y` |
|:--|--:|
| 1 | 2 \\| 3 |

[site](https://example.com/a_(b)) and https://example.com/x。
***
"""
HOSTILE = """<script>document.title='owned'</script><img src=x onerror="document.title='owned'">
<iframe srcdoc="<script>parent.document.title='owned'</script>"></iframe>
[a](javascript:document.title='owned') [b](data:text/html,x) [c](//example.com) [d](/v1/models)
![p](https://example.com/p.png) <a href="javascript:1">e</a> <style>*{display:none}</style>

```"><img src=x onerror=alert(1)>
</code></pre><script>document.title='owned'</script>
```

| <b>x</b> |
|---|
| <svg onload=alert(1)> |
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(names=("<img src=x onerror=alert(1)>",)) as made:
        yield made


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    with visiting(browser, server.url, permissions=["clipboard-read"]) as visit:
        yield visit.open()


def shown(visit: Visit, text: str) -> Any:
    """The node in which this answer stands."""
    visit.answers(stream(text))
    visit.asked("?")
    return visit.last()


def test_markdown(visit: Visit) -> None:
    text = shown(visit, RICH)
    expect(text.locator("h3")).to_have_text("Title")
    expect(text.locator("strong")).to_have_text(["bold", "重点", "text"])
    expect(text.locator("em")).to_have_text(["slanted"])
    expect(text.locator("del")).to_have_text(["gone"])
    expect(text.locator("p code")).to_have_text(["co*de*"])
    expect(text.locator("pre").first).to_have_text("def f(a):\n    return a < 1 && b")
    expect(text.locator("ol > li")).to_have_count(2)
    expect(text.locator("ol > li > ul > li")).to_have_text("inner")
    expect(text.locator("ol > li pre")).to_have_text("def f(a):\n    return a < 1 && b")
    expect(text.locator(":scope > ul > li")).to_have_text("☑ done")
    expect(text.locator("blockquote strong")).to_have_text("text")
    expect(text.locator("th")).to_have_text(["a", "b x|y"])
    expect(text.locator("td")).to_have_text(["1", "2 | 3"])
    links = text.locator("a")
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://example.com/a_(b)",
        "https://example.com/x",
    ]
    assert links.first.get_attribute("rel") == "noopener noreferrer"
    expect(text.locator("hr")).to_have_count(1)
    assert "2 * 3 * 4" in text.inner_text() and "snake_case_names" in text.inner_text()


def test_a_growing_text_ends_as_the_whole_one(visit: Visit) -> None:
    """Whatever is settled early must not differ from what the end would have made of it."""
    grown, whole = visit.page.evaluate(
        """async (text) => {
            const { Markdown } = await import("./page/markdown.js");
            const [grown, whole] = [document.createElement("div"), document.createElement("div")];
            const slowly = new Markdown(grown);
            for (let at = 0; at <= text.length; at += 1) slowly.update(text.slice(0, at));
            new Markdown(whole).update(text);
            return [grown.innerHTML, whole.innerHTML];
        }""",
        RICH * 2,
    )
    assert grown == whole


def test_what_a_model_says_is_never_markup(visit: Visit) -> None:
    text = shown(visit, HOSTILE)
    visit.asked("<img src=x onerror=alert(1)>")
    expect(visit.page.locator(".user .text").last).to_have_text("<img src=x onerror=alert(1)>")
    assert "<script>document.title" in text.inner_text()
    links = [link.get_attribute("href") for link in text.locator("a").all()]
    assert links == ["https://example.com/p.png"]  # an image is only a link, and loads nothing
    made = visit.page.locator("#transcript :is(script, img, iframe, style, [onerror], [onload])")
    expect(made).to_have_count(0)
    expect(visit.page.locator("#model")).to_have_value("<img src=x onerror=alert(1)>")
    assert visit.page.title() != "owned"


def test_the_policy_holds_against_a_script_that_got_in(visit: Visit) -> None:
    stopped = visit.page.evaluate(
        """() => {
            const node = document.createElement("div");
            try { node.innerHTML = "<img src=x>"; } catch (error) { return error.name; }
        }"""
    )
    assert stopped == "TypeError"
    assert "TrustedHTML" in visit.complaints.pop()


@pytest.mark.parametrize(
    "text",
    [
        *(
            sign * 20_000
            for sign in ("*", "[", "|", "~", "> ", "- ", "_a ", "**a ", "[a](", "`a``b")
        ),
        *(start + " " * 20_000 + "x`" for start in ("```", "# a", "a|\n-")),
        "https://x/" + "!" * 20_000,
    ],
    ids=lambda text: text[:6],
)
def test_no_text_makes_the_page_slow(visit: Visit, text: str) -> None:
    """Twenty thousand characters of the worst, drawn anew: far from what a user would notice."""
    spent = visit.page.evaluate(
        """async (text) => {
            const { Markdown } = await import("./page/markdown.js");
            const began = performance.now();
            new Markdown(document.createElement("div")).update(text);
            return performance.now() - began;
        }""",
        text,
    )
    assert spent < 1000


def test_a_long_answer_costs_no_more_at_its_end(visit: Visit) -> None:
    """Only the last block is built anew: nodes of earlier ones are the same as before."""
    kept = visit.page.evaluate(
        """async () => {
            const { Markdown } = await import("./page/markdown.js");
            const into = document.createElement("div");
            const markdown = new Markdown(into);
            let text = "";
            for (let at = 0; at < 500; at += 1) markdown.update(text += `Paragraph ${at}.\\n\\n`);
            const before = [...into.children];
            markdown.update(text += "```\\ncode");
            const code = into.querySelector("code").firstChild;
            markdown.update(text + " and more");
            const same = before.slice(0, -1).every((node, at) => into.children[at] === node);
            return [same, code.data];
        }"""
    )
    assert kept == [True, "code and more"]


def test_thoughts_are_folded(visit: Visit) -> None:
    visit.answers(stream("Four.", reasoning="Two and two …"))
    visit.asked("2 + 2?")
    expect(visit.last()).to_have_text("Four.")
    expect(visit.page.locator(".thoughts")).to_be_hidden()
    visit.page.locator("summary").click()
    expect(visit.page.locator(".thoughts")).to_have_text("Two and two …")


def test_copying(visit: Visit) -> None:
    shown(visit, CODE)
    visit.page.get_by_role("button", name="Copy code").click()
    read = "navigator.clipboard.readText()"
    assert visit.page.evaluate(read) == "def f(a):\n    return a < 1 && b"
    visit.page.locator(".assistant").get_by_role("button", name="Copy", exact=True).click()
    assert visit.page.evaluate(read) == CODE


@pytest.mark.parametrize(
    ("status", "code", "title", "todo"),
    [
        (429, "queue_full", "The server is busy", "Try again in about 7 s."),
        (503, "model_loading", "The model is still loading", "bar at the top"),
        (400, "context_length_exceeded", "The conversation is too long", "larger --context"),
        (404, "model_not_found", "The server does not have this model", "Choose another one"),
        (413, "request_too_large", "The server refused the request", "Change the message"),
        (502, "", "The connection to the server was lost", "Check that the server runs"),
    ],
)
def test_errors_say_what_to_do(visit: Visit, status: int, code: str, title: str, todo: str) -> None:
    page = visit.page
    body = json.dumps({"error": {"message": "<b>why</b>", "code": code}}) if code else "<html>"
    visit.answers(body, status, Retry_After="7")
    visit.asked("?")
    expect(page.locator(".trouble strong")).to_contain_text(title)
    expect(page.locator(".trouble p").first).to_contain_text(todo)
    expect(page.locator(".detail")).to_have_text("<b>why</b>" if code else "HTTP 502")
    visit.answers(stream("Better."))
    page.get_by_role("button", name="Try again").click()
    expect(visit.last()).to_have_text("Better.")
    expect(page.locator(".message")).to_have_count(2)


def test_an_error_in_the_midst_keeps_what_was_said(visit: Visit) -> None:
    error = {"message": "the model's process died", "code": "backend_error"}
    visit.answers(stream("Half an answer", error=error))
    visit.asked("?")
    expect(visit.last()).to_have_text("Half an answer")
    expect(visit.page.locator(".trouble strong")).to_have_text("The model broke off")
    visit.answers(stream("cut off").removesuffix("data: [DONE]\n\n"))
    visit.asked("And now?")
    expect(visit.page.locator(".trouble strong").last).to_contain_text("was lost")
    visit.page.reload()
    expect(visit.ready().page.locator(".trouble")).to_have_count(2)


def test_files_go_out_and_come_back(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    shown(visit, "An **answer**.")
    with page.expect_download() as markdown:
        choose(visit, "Export as Markdown")
    text = Path(markdown.value.path()).read_text(encoding="utf-8")
    assert text.startswith("# ?\n\n## You\n\n?\n\n## ") and text.endswith("An **answer**.\n")
    with page.expect_download() as kept:
        choose(visit, "Export all conversations")
    assert kept.value.suggested_filename == "portable.json"
    file = tmp_path / "kept.json"
    kept.value.save_as(file)
    with page.expect_file_chooser() as chooser:
        choose(visit, "Import conversations …")
    chooser.value.set_files(file)
    expect(page.locator("#conversations li")).to_have_count(2)
    expect(visit.last()).to_have_text("An answer.")
    file.write_text(file.read_text(encoding="utf-8").replace('"assistant"', '"system"'))
    with page.expect_file_chooser() as chooser:
        choose(visit, "Import conversations …")
    chooser.value.set_files(file)
    expect(page.locator("#ask-title")).to_have_text("This file cannot be imported")
    expect(page.locator("#conversations li")).to_have_count(2)


def choose(visit: Visit, name: str) -> None:
    visit.page.get_by_role("button", name="Export and import").click()
    visit.page.get_by_role("button", name=name).click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(browser: Browser, server: Server, scheme: Any, width: int) -> None:
    size: Any = {"width": width, "height": 800}
    with visiting(browser, server.url, color_scheme=scheme, viewport=size) as visit:
        page = visit.open().page
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert violations(visit) == []  # the first visit
        shown(visit, RICH)
        visit.answers("{}", 429)
        visit.asked("Busy?")
        assert violations(visit) == []
        if width < 700:
            page.get_by_role("button", name="Show conversations").click()
            assert violations(visit) == []
        page.get_by_role("button", name="Settings").click()
        assert violations(visit) == []
        page.keyboard.press("Escape")
        page.locator("#conversations li").hover()
        page.get_by_role("button", name="Delete:").click()
        assert violations(visit) == []


def violations(visit: Visit) -> list[str]:
    """What axe-core holds against the page as it stands, up to WCAG 2.2 AA and good practice."""
    visit.page.wait_for_timeout(250)  # no colour half-way between two
    found = visit.page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def test_a_narrow_page(browser: Browser, server: Server) -> None:
    phone = {"width": 360, "height": 700}
    with visiting(browser, server.url, viewport=phone, has_touch=True, is_mobile=True) as visit:
        page = visit.open().page
        shown(visit, RICH + CODE.replace("a < 1", "a" * 200) + "\n\n" + "x" * 300)
        wide = "document.documentElement.scrollWidth > innerWidth"
        assert not page.evaluate(wide) and not page.evaluate(
            "(n => n.scrollWidth > n.clientWidth)(document.querySelector('#scroller'))"
        )
        expect(page.locator("#sidebar")).to_be_hidden()
        page.get_by_role("button", name="Show conversations").click()
        expect(page.get_by_role("button", name="Close")).to_be_focused()
        assert page.evaluate("document.querySelector('#room').inert")
        page.keyboard.press("Escape")
        expect(page.locator("#sidebar")).to_be_hidden()
        expect(page.get_by_role("button", name="Show conversations")).to_be_focused()


def test_the_focus_is_never_lost(visit: Visit) -> None:
    page = visit.page
    shown(visit, "First.")
    page.get_by_role("button", name="Regenerate").press("Enter")
    expect(page.locator(".version")).to_have_text("2 of 2")
    expect(page.locator("#message")).to_be_focused()
    page.get_by_role("button", name="Previous version").press("Enter")
    expect(page.get_by_role("button", name="Next version")).to_be_focused()
    page.get_by_role("button", name="Rename: ?").press("Enter")
    page.keyboard.type("Named")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Rename: Named")).to_be_focused()


def test_only_models_that_answer_can_be_chosen(browser: Browser, server: Server) -> None:
    tasks = {"vectors": {"task": "embed"}, "asleep": {}, "words": {"task": "generate"}}
    body = {"data": [{"id": name, "meta": meta} for name, meta in tasks.items()]}
    with visiting(browser, server.url) as visit:
        visit.page.route("**/v1/models", lambda route: route.fulfill(json=body))
        options = visit.open().page.locator("#model option")
        expect(options).to_have_text(["asleep", "words"])
        visit.page.locator("#model").select_option("words")
        visit.page.reload()
        expect(visit.ready().page.locator("#model")).to_have_value("words")


def test_another_machine_over_http(browser: Browser) -> None:
    """There a browser gives a page no clipboard and no randomUUID: it gets along without."""
    with running(allowed_hosts=(ELSEWHERE,)) as server:
        address = server.url.replace("127.0.0.1", ELSEWHERE)
        with visiting(browser, address) as visit:
            page = visit.open().page
            assert not page.evaluate("isSecureContext")
            shown(visit, CODE)
            page.get_by_role("button", name="Copy code").click()
            page.focus("#message")
            page.keyboard.press("Control+v")
            expect(page.locator("#message")).to_have_value("def f(a):\n    return a < 1 && b")


def test_behind_a_proxy_s_prefix(browser: Browser) -> None:
    with (
        running(root_path="/models/portable") as server,
        visiting(browser, server.url + "/models/portable") as visit,
    ):
        visit.open().ask("Say hi.")
        expect(visit.last()).to_contain_text(re.compile(r"\w"))
        visit.page.keyboard.press("Escape")
        expect(visit.page.locator(".stats")).to_be_visible()
