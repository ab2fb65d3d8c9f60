"""The web page's files: what they may not contain, and how they are served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from portable.server import static
from portable.server.app import make_app
from portable.server.config import ServerConfig

FOLDER = Path(static.__file__).parent / "page"
FILES = sorted(FOLDER.iterdir())
SCRIPTS = [file for file in FILES if file.suffix == ".js"]
# The ways from a text to markup or code, and whatever would need an exception in the policy.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser"
    r"|srcdoc|\beval\b|\bFunction\(|<style|\sstyle=|\son\w+=|javascript:|unsafe-|@import|url\("
)


@pytest.fixture
def client() -> Iterator[TestClient]:
    """The application with a key, and without its models: they are not asked."""
    app = make_app([], ServerConfig(api_keys=("secret",)), lambda _: None)
    yield TestClient(app, base_url="http://localhost")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_are_small_plain_and_all_our_own(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400 and max(map(len, text.splitlines())) <= 320
    assert not FORBIDDEN.search(text.replace("trusted-types", ""))
    addresses = set(re.findall(r"https?://[\w.]+", text))
    assert addresses <= {"http://www.w3.org"}, "the name of SVG's namespace, and nothing to fetch"


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_say_what_they_are_and_stay_narrow(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(("/**", "//")) and max(map(len, lines)) <= 100
    assert re.search(r"[\w)][.:]( \*/)?$", lines[0] if lines[0] != "/**" else lines[1])


def test_every_word_is_said_in_both_languages_and_somewhere() -> None:
    words = (FOLDER / "words.js").read_text(encoding="utf-8")
    table = words[words.index("WORDS = {") : words.index("\n};")]
    rows = dict(re.findall(r"^  (\w+): (\[[^\]]*\])", table, re.MULTILINE))
    used = "".join(file.read_text(encoding="utf-8") for file in FILES if file.name != "words.js")
    for name, row in rows.items():
        english, chinese = re.findall(r'"([^"]+)"', row)
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", chinese)), name
        assert name.removesuffix("Do").removesuffix("Hint") in used, f"nobody says {name}"
    assert set(re.findall(r'(?:\bsay\(|data-say\S*=)"(\w+)"', used)) <= set(rows)


def test_the_page_is_public_and_shut(client: TestClient) -> None:
    for path in sorted(static.PATHS):
        answer = client.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert client.head("/page/main.js").headers["content-type"].startswith("text/javascript")


def test_a_file_that_did_not_change_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    known = {"if-none-match": first.headers["etag"]}
    again = client.get("/page/main.js", headers=known)
    assert again.status_code == 304 and not again.content
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/page/words.js", headers=known).status_code == 200


def test_only_the_page_is_public(client: TestClient) -> None:
    for path in ("/v1/models", "/page", "/page/", "/page/static.py", "/page/../static.py", "/x"):
        assert client.get(path).status_code == 401, path
    key = {"authorization": "Bearer secret"}
    assert client.get("/page/nothing.js", headers=key).status_code == 404
    assert client.post("/", headers=key).status_code == 405


def test_a_document_needs_no_model(client: TestClient) -> None:
    answer = client.get("/docs")
    assert answer.status_code == 200 and "page/docs.js" in answer.text
    assert client.get("/openapi.json").status_code == 401
