"""The web page with a real server and a real model, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from browser import Visit, browser, visiting
from playwright.sync_api import Browser, expect
from serving import CHAT, Server, asking, running, until

__all__ = ["browser"]
LONG = "Write a long story about a river."  # 1500 tokens and more


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    """A first visit; answers are short."""
    with visiting(browser, server.url) as visit:
        keep(visit, sampling={"max_tokens": 12, "temperature": 0})
        yield visit.open()
    server.wait_idle()


def keep(visit: Visit, **settings: Any) -> None:
    """What an earlier visit left in the browser, unless something is there."""
    text = json.dumps(json.dumps(settings))
    visit.page.add_init_script(f"localStorage['portable.settings'] ??= {text}")


def patient(visit: Visit) -> Visit:
    """Let answers be long."""
    kept = json.dumps({"sampling": {"max_tokens": 1500, "temperature": 0}})
    visit.page.evaluate("kept => localStorage['portable.settings'] = kept", kept)
    visit.page.reload()
    return visit.ready()


def test_an_answer_streams_with_its_speed_and_its_share_of_the_context(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#examples button")).to_have_count(4)
    page.locator("#examples button").first.click()
    expect(page.locator(".user .text")).to_have_text("Explain how rainbows form, in simple words")
    expect(page.locator(".stats")).to_contain_text("12 tokens · ")
    expect(page.locator("#context-text")).to_contain_text("of 2,048 tokens")
    expect(page.locator("#announcer")).to_contain_text("Answer: ")
    expect(page.locator(".note")).to_have_text("The answer reached its token limit.")
    assert visit.last().inner_text().strip()


def test_stopping_keeps_what_came_and_frees_the_server(visit: Visit, server: Server) -> None:
    page = visit.page
    patient(visit).ask(LONG)
    until(lambda: len(visit.last().inner_text()) > 20)
    until(lambda: server.meta()["running"] == 1)
    page.keyboard.press("Escape")
    expect(page.locator(".stats")).to_have_text("Stopped")
    server.wait_idle()
    said = visit.last().text_content() or ""
    page.reload()
    expect(visit.ready().last()).to_have_text(said)


def test_leaving_in_the_midst_of_an_answer_keeps_it(visit: Visit, server: Server) -> None:
    patient(visit).ask(LONG)
    visit.page.wait_for_timeout(1500)  # it is kept once a second
    visit.page.reload()
    expect(visit.ready().page.locator(".stats")).to_have_text("Stopped")
    assert visit.last().inner_text().strip()
    server.wait_idle()


def test_regenerating_and_editing_keep_the_earlier_versions(visit: Visit) -> None:
    page = visit.page
    visit.asked("Say hi.")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".assistant .version")).to_have_text("2 of 2")
    page.locator(".user").hover()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("textbox", name="Edit").fill("Say bye.")
    page.keyboard.press("Enter")
    expect(page.locator(".user .version")).to_have_text("2 of 2")
    expect(page.locator(".user .text")).to_have_text("Say bye.")
    page.locator("#send").wait_for(state="visible")
    expect(page.locator(".message")).to_have_count(2)
    page.locator(".user").get_by_role("button", name="Previous version").click()
    expect(page.locator(".user .text")).to_have_text("Say hi.")
    expect(page.locator(".assistant .version")).to_have_text("2 of 2")


def test_conversations_are_kept_found_renamed_and_deleted(visit: Visit) -> None:
    page = visit.page
    visit.asked("Tell me about tea.")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#welcome")).to_be_visible()
    visit.asked("Tell me about snow.")
    page.reload()
    visit.ready()
    expect(page.locator(".user .text")).to_have_text("Tell me about snow.")
    titles = page.locator("#conversations .title")
    expect(titles).to_have_text(["Tell me about snow.", "Tell me about tea."])
    page.fill("#search", "TEA about")
    expect(titles).to_have_text(["Tell me about tea."])
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Rename: Tell me about tea.").click()
    page.locator("#ask-input").fill("Green tea")
    page.keyboard.press("Enter")
    expect(titles).to_have_text(["Green tea"])
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Delete: Green tea").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#none-found")).to_have_text("Nothing found")
    page.fill("#search", "")
    expect(titles).to_have_text(["Tell me about snow."])


def test_back_and_two_tabs(visit: Visit) -> None:
    page = visit.page
    visit.asked("One.")
    page.get_by_role("button", name="New chat").click()
    visit.asked("Two.")
    page.go_back()
    page.go_back()
    expect(page.locator(".user .text")).to_have_text("One.")
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator(".user .text")).to_have_text("One.")
    visit.asked("Three.")
    expect(other.locator(".user .text")).to_have_text(["One.", "Three."])
    expect(other.locator(".assistant")).to_have_count(2)
    other.close()


def test_the_request_says_what_was_set_and_nothing_else(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Settings").click()
    expect(page.locator(".facts")).to_contain_text("all 31 layers on CPU")
    page.get_by_role("textbox", name="System prompt").fill("Answer in French.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Top P").fill("3")
    expect(page.get_by_label("Top P")).to_have_attribute("aria-invalid", "true")
    page.locator("#set-thinking").select_option("off")
    page.get_by_role("button", name="Close").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        visit.asked("Say hi.")
    assert sent.value.post_data_json == {
        "model": "SmolLM2-135M-Instruct",
        "messages": [
            {"role": "system", "content": "Answer in French."},
            {"role": "user", "content": "Say hi."},
        ],
        "max_tokens": 12,
        "temperature": 0.5,
        "seed": 7,
        "enable_thinking": False,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "stream": True,
    }
    page.reload()
    visit.ready()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_value("0.5")
    expect(page.get_by_role("textbox", name="System prompt")).to_have_value("Answer in French.")


def test_languages_and_colours(browser: Browser, server: Server) -> None:
    with visiting(browser, server.url, locale="zh-CN", color_scheme="dark") as visit:
        page = visit.open().page
        expect(page.locator("#welcome h2")).to_have_text("有什么可以帮你？")
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="设置").click()
        page.locator("#set-theme").select_option("light")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark, light) == ("rgb(23, 25, 26)", "rgb(255, 255, 255)")
        page.locator("#set-language").select_option("en")
        expect(page.locator("#settings h2")).to_have_text("Settings")
        expect(page.locator("#settings-body h3").first).to_have_text("Appearance")
        page.reload()
        expect(visit.ready().page.locator("#welcome h2")).to_have_text("What can I help with?")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("One line,")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another.")
    page.keyboard.press("Enter")
    expect(page.locator(".user .text")).to_have_text("One line,\nand another.")
    expect(page.locator(".stats")).to_contain_text("tokens/s")
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("textbox", name="Edit")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("form.edit")).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#welcome")).to_be_visible()
    page.locator("#new").focus()
    page.keyboard.press("/")
    expect(page.locator("#message")).to_be_focused()


def test_an_input_method_s_enter_does_not_send(visit: Visit) -> None:
    page = visit.page
    page.focus("#message")
    devtools = page.context.new_cdp_session(page)
    begun = {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6}
    devtools.send("Input.imeSetComposition", begun)
    enter = {"type": "rawKeyDown", "key": "Enter", "code": "Enter"}
    for code in (13, 229):  # as Chromium says it, and as Safari does
        devtools.send("Input.dispatchKeyEvent", enter | {"windowsVirtualKeyCode": code})
    expect(page.locator(".message")).to_have_count(0)
    devtools.send("Input.insertText", {"text": "你好"})
    expect(page.locator("#message")).to_have_value("你好")
    page.keyboard.press("Enter")
    expect(page.locator(".user .text")).to_have_text("你好")
    page.locator("#send").wait_for(state="visible")


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser) -> None:
    with running(api_keys=("secret",)) as server, visiting(browser, server.url) as visit:
        page = visit.page
        keep(visit, sampling={"max_tokens": 4})
        page.goto(server.url)
        field = page.get_by_role("textbox", name="API key")
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#ask-text")).to_have_text("The server did not accept that key.")
        field.fill("secret")
        page.keyboard.press("Enter")
        visit.ready().asked("Say hi.")
        expect(page.locator(".stats")).to_contain_text("tokens/s")
        page.evaluate("sessionStorage['portable.key'] = 'old'")
        visit.ask("Again.")
        field.fill("secret")
        page.keyboard.press("Enter")
        expect(page.locator(".stats")).to_have_count(2)
        page.reload()
        visit.ready()
        assert not page.locator("#ask").is_visible()
        assert "secret" not in json.dumps(page.context.storage_state())


def test_a_model_that_is_loading_and_one_that_died(browser: Browser) -> None:
    with running(ready=False) as server, visiting(browser, until(lambda: url(server))) as visit:
        page = visit.page
        keep(visit, sampling={"max_tokens": 1500, "temperature": 0})
        page.goto(visit.url)
        expect(page.locator("#banner-text")).to_contain_text("The model is loading.")
        expect(page.locator("#banner")).to_be_hidden(timeout=60_000)
        visit.ready().ask(LONG)
        until(lambda: len(visit.last().inner_text()) > 20)
        server.child.kill()
        expect(page.locator(".trouble strong")).to_have_text("The model broke off")
        assert len(visit.last().inner_text()) > 20
        expect(page.locator("#banner")).to_be_hidden(timeout=60_000)
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".trouble")).to_have_count(0)
        until(lambda: len(visit.last().inner_text()) > 20)
        server.process.kill()
        lost = "The connection to the server was lost"
        expect(page.locator(".trouble strong")).to_have_text(lost)
        expect(page.locator(".assistant .version")).to_have_text("2 of 2")
        expect(page.locator("#banner-text")).to_contain_text("The server does not answer.")
        visit.complaints.clear()  # Chromium's own lines about the lost connection


def url(server: Server) -> str | None:
    return server.url if "running on" in server.log else None


def test_waiting_says_what_for(browser: Browser) -> None:
    with (
        running({"slots": 1}, keep_alive_seconds=0.2) as server,
        visiting(browser, server.url) as visit,
    ):
        visit.open()
        body = asking(LONG, stream=True, max_tokens=1500)
        with server.client.stream("POST", server.url + CHAT, json=body) as busy:
            chunks = busy.iter_bytes()  # one that nobody holds would close the connection
            next(chunks)
            visit.ask("Say hi.")
            expect(visit.page.locator(".working")).to_contain_text("Waiting in the queue: ")
        expect(visit.page.locator(".assistant")).to_contain_text(re.compile(r"\w"))
        visit.page.keyboard.press("Escape")
        expect(visit.page.locator(".stats")).to_have_text("Stopped")


def test_the_endpoints_are_shown_with_their_fields(visit: Visit) -> None:
    page = visit.page
    page.goto(visit.url + "/docs")
    chat = page.locator("details", has_text="POST /v1/chat/completions ").first
    chat.locator("summary").click()
    expect(chat.locator("tr", has_text="temperature")).to_contain_text("number 0…2")
    expect(chat.locator("tr", has_text="messages *")).to_contain_text("list of ChatMessage")
    expect(page.locator("[role=alert]")).to_have_count(0)
