"""Downloads through the real clients from a loopback stand-in that cuts, lies and forbids."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import modelscope_hub
import pytest
from hubs import FakeHub, environment, serving

from portable import hub
from portable.errors import (
    DiskError,
    NetworkError,
    PortableError,
    UnsupportedModel,
    UsageError,
)
from portable.progress import Bars

WEIGHTS = bytes(range(256)) * 4000
FILES = {
    "config.json": json.dumps({"model_type": "qwen2"}).encode(),
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "onnx/model.safetensors": b"not asked for",
    "README.md": b"# Model",
}
PATTERNS = ["*.json", "*.safetensors"]
REPO = "org/Model-1.5B"
BOTH = pytest.mark.parametrize("key", ["ms", "hf"])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, environment(monkeypatch, tmp_path, server.url):
        monkeypatch.setattr("time.sleep", lambda _: None)  # the clients' pauses between tries
        yield server


def get(key: str, **options: object) -> hub.Snapshot:
    source = hub.connect(key)
    return source.snapshot(source.listing(REPO), PATTERNS, **options)  # type: ignore[arg-type]


@BOTH
def test_only_what_is_asked_for_arrives(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)
    folder, commit = get(key)
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert commit == fake.state.repos[REPO].commit


@BOTH
def test_a_second_time_fetches_nothing(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)
    get(key)
    before = len(fake.state.asked("safetensors"))
    get(key)
    assert len(fake.state.asked("safetensors")) == before


@BOTH
def test_a_cut_connection_goes_on_at_the_byte(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", ("cut", 300_000))
    folder, _ = get(key)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [r.headers.get("range") for r in fake.state.asked("model.safetensors")]
    assert any(r and 0 < int(r[6:-1]) <= 300_000 for r in ranges)


@BOTH
def test_wrong_bytes_are_fetched_again(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", ("wrong",))
    folder, _ = get(key)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert len(fake.state.asked("tokenizer.json")) == 1


@BOTH
@pytest.mark.parametrize("fault", ["wrong", "html"])
def test_wrong_twice_names_file_and_sums_and_leaves_nothing(
    fake: FakeHub, key: str, fault: str
) -> None:
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", (fault,), (fault,), ("none",))
    with pytest.raises(NetworkError, match=r"model\.safetensors.*expected .*, got ") as caught:
        get(key)
    assert caught.value.exit_code == 7
    folder, _ = get(key)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@BOTH
def test_the_unsupported_is_said_before_any_weight(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)

    def check(config: dict[str, object], folder: Path) -> None:
        card = (folder / "README.md").is_file()
        raise UnsupportedModel(f"no {config['model_type']}, card: {card}")

    source = hub.connect(key)
    with pytest.raises(UnsupportedModel, match="no qwen2, card: True"):
        source.snapshot(source.listing(REPO), [*PATTERNS, "README.md"], check=check)
    assert not fake.state.asked("model.safetensors")


@BOTH
def test_progress_ends_at_the_total_and_names_files(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)
    seen: list[tuple[str, int, int, str]] = []
    get(key, report=lambda *event: seen.append(event))
    total = sum(len(FILES[n]) for n in ("config.json", "model.safetensors", "tokenizer.json"))
    assert seen[-1][1:3] == (total, total)
    assert len({e[1] for e in seen if e[3] == "model.safetensors"}) > 1


@BOTH
def test_unknown_model_names_the_hub_asked_and_the_other(fake: FakeHub, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        hub.connect(key).listing("org/nothing")
    assert hub.TITLES[key] in str(caught.value) and "127.0.0.1" in str(caught.value)
    assert {"ms": "hf://", "hf": "ms://"}[key] in caught.value.hint


@BOTH
def test_unknown_revision(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)
    with pytest.raises(UsageError, match="revision v9"):
        hub.connect(key).listing(REPO, "v9")


@BOTH
def test_gated_says_where_and_how(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES, gated=True)
    with pytest.raises(UsageError, match=r"licence at https://.*set (HF|MODELSCOPE)"):
        get(key)


@BOTH
@pytest.mark.parametrize("trusted", [False, True])
def test_a_token_goes_only_where_it_belongs(
    fake: FakeHub, key: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = fake.state.token
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, token)
    if trusted:
        monkeypatch.setenv("PORTABLE_TOKEN_HOST", "127.0.0.1")
    fake.add(REPO, FILES, gated=True)
    if trusted:
        get(key)
    else:
        with pytest.raises(UsageError) as caught:
            get(key)
        assert token not in repr(caught.value) + str(caught.value)
    told = {r.host.partition(":")[0] for r in fake.state.log if token in str(r.headers)}
    assert told == ({"127.0.0.1"} if trusted else set())


@BOTH
def test_nobody_there(fake: FakeHub, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, url)
    assert not hub.connect(key).probe.answered
    with pytest.raises(NetworkError, match=r"_ENDPOINT.*--offline"):
        hub.connect(key).listing(REPO)


@BOTH
@pytest.mark.parametrize("name", ["PORTABLE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket(
    fake: FakeHub, key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, FILES)
    folder, _ = get(key)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr("socket.socket", None)
    source = hub.connect(key)
    with pytest.raises(NetworkError, match="offline"):
        source.listing(REPO)
    assert source.cached(REPO) == folder
    assert source.cached("org/other") is None


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        *["../a.json", "/a.json", "C:a.json", "a\\b.json", "//h/s.json", "a/../../b.json"],
        *["a\0.json", "CON.json", "nul", "x/./y.json", "a" * 300 + ".json", "a.json ", "a:b.json"],
        *["..%2f/../x", "x/", "", "aux.safetensors", "a\n.json", "~/../../x.json"],
    ],
)
def test_dangerous_names_are_refused(fake: FakeHub, key: str, name: str, tmp_path: Path) -> None:
    fake.add(REPO, {"config.json": b"{}", name: b"evil"})
    source = hub.connect(key)
    listing = source.listing(REPO)
    with pytest.raises(NetworkError, match="dangerous"):
        source.fetch(listing, listing.files)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"evil"]


@BOTH
@pytest.mark.parametrize("repo", ["../x/y", "org", "a/b/c", "org/..", "org/a b", "./a"])
def test_what_is_no_id_is_refused(key: str, repo: str) -> None:
    with pytest.raises(UsageError, match="not a model id"):
        hub.connect(key).cached(repo)


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a b", "-x"])
def test_what_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(UsageError, match="not a revision"):
        hub.connect("ms").listing(REPO, revision)


def test_a_kill_keeps_what_has_come_from_hugging_face(fake: FakeHub) -> None:
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", ("cut", 400_000), *[("status", 503)] * 9)
    with pytest.raises(NetworkError):
        get("hf")
    fake.state.faults.clear()
    fake.state.log.clear()
    folder, _ = get("hf")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    first = fake.state.asked("/cdn/")[0].headers.get("range", "")
    assert int(first.removeprefix("bytes=").rstrip("-")) > 0


@BOTH
def test_a_stall_reconnects(fake: FakeHub, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.connect(key)  # sets the client's own limit
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr("modelscope_hub._legacy_api.DOWNLOAD_TIMEOUT", 0.3)
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", ("stall", 300_000))
    folder, _ = get(key)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    came = [r.headers["range"] for r in fake.state.asked("safetensors") if "range" in r.headers]
    assert came and 0 < int(came[0].removeprefix("bytes=").rstrip("-")) <= 300_000


def test_a_server_without_ranges_starts_over(fake: FakeHub) -> None:
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", ("cut", 300_000), ("no range",))
    folder, _ = get("hf")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


class Display:
    """What a terminal's bar is told."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def add_task(self, *_: object, **__: object) -> int:
        return 0

    def update(self, task: int, *, completed: int, **_: object) -> None:
        self.shown.append(completed)


@BOTH
def test_the_bar_never_goes_back_when_a_transfer_starts_over(fake: FakeHub, key: str) -> None:
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", ("cut", 600_000), ("no range",))
    display, told = Display(), []  # type: tuple[Display, list[int]]
    bar = Bars(display)

    def report(phase: str, done: int, total: int, detail: str) -> None:
        told.append(done)
        bar(phase, done, total, detail)

    get(key, report=report)
    assert told != sorted(told) and display.shown == sorted(display.shown)
    assert display.shown[-1] == told[-1]


def log_in(folder: Path, token: str) -> None:
    """As `hf auth login` and `modelscope login` leave it."""
    (folder / "hf-token").write_text(token)
    modelscope_hub.HubConfig(token=None).save_token(token)


@BOTH
@pytest.mark.parametrize("kind", ["gated", "private"])
def test_an_earlier_login_opens_what_is_gated_and_private(
    fake: FakeHub, key: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, FILES, **{kind: True})
    monkeypatch.setenv("PORTABLE_TOKEN_HOST", "127.0.0.1")
    with pytest.raises(UsageError):
        get(key)
    log_in(tmp_path, fake.state.token)
    assert (get(key).folder / "model.safetensors").read_bytes() == WEIGHTS


def half_a_file(folder: Path) -> bool:
    with suppress(FileNotFoundError):  # a small one got its name just now
        return any(p.stat().st_size > 1 << 16 for p in folder.rglob("*.incomplete"))
    return False


@BOTH
def test_kill_9_goes_on_at_the_byte(fake: FakeHub, key: str, tmp_path: Path) -> None:
    fake.add(REPO, FILES)
    fake.fault("model.safetensors", ("stall", 600_000))
    code = "import sys, test_hub; test_hub.get(sys.argv[1])"
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hf")}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen([sys.executable, "-c", code, key], env=env) as child:
        deadline = time.monotonic() + 30
        while not half_a_file(tmp_path):
            assert time.monotonic() < deadline and child.poll() is None
        child.kill()
    fake.state.log.clear()
    folder, _ = get(key)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    came = [r.headers["range"] for r in fake.state.asked("safetensors") if "range" in r.headers]
    assert came and int(came[0].removeprefix("bytes=").rstrip("-")) > 1000


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        *["<html>log in</html>", "", "[]", "{}", "null", '{"Data": 7, "sha": 7}'],
        *['{"siblings": [1]}', '{"Data": {"Files": [{"Path": "x"}]}}', '{"Data": {"Files": [1]}}'],
        *['{"Data": {"Files": [{"Path": 1, "Size": 1}]}}', '{"Data": {"Files": 5}}'],
        *['{"Data": {"Files": [{"Path": "x", "Size": -1}]}}'],
    ],
)
def test_a_listing_that_is_none(fake: FakeHub, key: str, text: str) -> None:
    fake.state.listing = text.encode()
    source = hub.connect(key)
    try:
        assert source.listing(REPO).files == ()
    except NetworkError as error:
        assert error.hint


# ModelScope only: Hugging Face's files are known by their sha256, which decides.
@pytest.mark.parametrize("size", [5, len(WEIGHTS) - 1, len(WEIGHTS) + 1])
def test_a_size_that_is_not_the_listed_one(fake: FakeHub, size: int) -> None:
    lie = {"Size": size, "size": size}
    fake.add(REPO, FILES, lies={"model.safetensors": lie})
    with pytest.raises(NetworkError, match=r"model\.safetensors"):
        get("ms")


@pytest.mark.parametrize("digest", ["../../../evil", "", "0" * 63, None])
def test_a_checksum_that_is_none_names_no_file(fake: FakeHub, digest: str | None) -> None:
    lie = {"lfs": {"sha256": digest, "size": 5, "pointerSize": 1}, "blobId": digest}
    fake.add(REPO, FILES, lies={"model.safetensors": lie})
    with pytest.raises(NetworkError, match="no checksum"):
        get("hf")


def test_a_link_in_the_cache_leads_nowhere(fake: FakeHub, tmp_path: Path) -> None:
    fake.add(REPO, {"config.json": b"{}", "sub/a.json": b"evil"})
    source = hub.connect("ms")
    listing = source.listing(REPO)
    outside = tmp_path / "outside"
    outside.mkdir()
    source.folder(listing).mkdir(parents=True)
    (source.folder(listing) / "sub").symlink_to(outside)
    with pytest.raises(PortableError, match="leads out"):
        source.fetch(listing, listing.files)
    assert not list(outside.iterdir())


def test_private_and_unknown_are_one_answer_with_a_way_out(fake: FakeHub) -> None:
    fake.add(REPO, FILES, private=True)
    for key, variable in (("ms", "MODELSCOPE_API_TOKEN"), ("hf", "HF_TOKEN")):
        with pytest.raises(UsageError, match=f"private.*{variable}"):
            hub.connect(key).listing(REPO)


def test_a_full_disk_is_said_before_the_download(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, FILES)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match=r"1\.0 kB are free"):
        get("ms")
    assert not fake.state.asked("model.safetensors")


def test_domain_is_the_older_name_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELSCOPE_ENDPOINT", raising=False)
    assert hub.connect("ms").endpoint == "https://modelscope.cn"
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "www.modelscope.ai")
    assert hub.connect("ms").endpoint == "https://www.modelscope.ai"
    assert hub.connect("ms").may_send_token


@pytest.mark.parametrize("url", ["http://evil-huggingface.co", "http://huggingface.co.evil.org"])
def test_a_look_alike_gets_no_token(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert not hub.connect("hf").may_send_token


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("Qwen/Qwen3-0.6B", hub.Ref(None, "Qwen/Qwen3-0.6B")),
        ("ms://a/b", hub.Ref("ms", "a/b")),
        ("ModelScope://a/b@v1.0:q4_0", hub.Ref("ms", "a/b", "v1.0", "q4_0")),
        ("hf://a/b:Q8_0", hub.Ref("hf", "a/b", None, "Q8_0")),
        ("hf://a/b@refs/pr/4", hub.Ref("hf", "a/b", "refs/pr/4")),
        ("qwen3-4b", hub.Ref(None, "qwen3-4b")),
        ("", hub.Ref(None, "")),
    ],
)
def test_how_a_model_is_named(text: str, ref: hub.Ref) -> None:
    assert hub.parse(text) == ref
