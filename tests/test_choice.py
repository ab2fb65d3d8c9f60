"""Which hub is taken when the name does not say, seen through two loopback hubs."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hubs import FakeHub, environment, impatient, serving

from portable import store
from portable.errors import NetworkError, NotOnHub, UsageError
from portable.hub import probe
from portable.obtain import Model, choice, obtain

REPO = "org/Tiny-GGUF"
SECOND = "models/tiny-Q8_0.gguf"
FILES = {"tiny-Q4_K_M.gguf": b"GGUF" + b"q4" * 1000, SECOND: b"GGUF" + bytes(200) * 4000}


class Hubs(NamedTuple):
    ms: FakeHub
    hf: FakeHub


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hubs]:
    with serving() as ms, serving() as hf, environment(monkeypatch, tmp_path, ms.url):
        monkeypatch.setenv("HF_ENDPOINT", hf.url)
        monkeypatch.setattr(probe, "SECONDS", 0.3)
        yield Hubs(ms, hf)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def get(model: str, said: list[str] | None = None, **options: Any) -> Model:
    return obtain(model, say=(said if said is not None else []).append, **options)


def test_modelscope_is_first(hubs: Hubs) -> None:
    for one in hubs:
        one.add(REPO, FILES)
    said: list[str] = []
    model = get(REPO, said)
    assert model.source.endswith("from ModelScope") and model.path.read_bytes()[:4] == b"GGUF"
    assert said[0].endswith("from ModelScope (it answers, and is asked first)")
    assert not hubs.hf.state.asked("tiny")


def test_what_only_hugging_face_has_comes_from_there_and_that_is_remembered(hubs: Hubs) -> None:
    hubs.hf.add(REPO, FILES)
    said: list[str] = []
    assert get(REPO, said).source.endswith("from Hugging Face")
    assert "(ModelScope does not have it)" in said[0]
    hubs.ms.state.log.clear()
    said.clear()
    get(f"{REPO}:Q8_0", said)
    assert "ModelScope does not have it, as seen 20" in said[0]
    assert not hubs.ms.state.log


def test_hugging_face_takes_over_when_modelscope_is_silent(
    hubs: Hubs, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", silent)
    hubs.hf.add(REPO, FILES)
    hubs.hf.add("org/Other-GGUF", FILES)
    said: list[str] = []
    assert get(REPO, said).source.endswith("from Hugging Face")
    assert "(ModelScope (127.0.0.1) does not answer)" in said[0]
    started = time.monotonic()
    get("org/Other-GGUF", said)
    assert "does not answer, as seen 20" in said[1]
    assert time.monotonic() - started < 10  # it was not asked again
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hubs.ms.url)  # another address: nothing is known
    hubs.ms.add("org/Third-GGUF", FILES)
    assert get("org/Third-GGUF").source.endswith("from ModelScope")


def test_what_is_remembered_grows_old(hubs: Hubs) -> None:
    now = [1e9]
    memory = choice.Memory([], clock=lambda: now[0])
    memory.remember(REPO, "why")
    memory.remember(choice.ANY, "why")
    now[0] += choice.SILENT_SECONDS
    assert not memory.find(choice.ANY) and memory.find(REPO)
    now[0] += choice.ABSENT_SECONDS
    assert not memory.find(REPO)


@pytest.mark.parametrize("text", ["", "[]", "7", '{"x *": {"why": 1, "at": 2}}', '{"x": 5}'])
def test_a_damaged_memory_is_none(hubs: Hubs, text: str) -> None:
    hubs.ms.add(REPO, FILES)
    store.home().mkdir(parents=True)
    (store.home() / "hubs.json").write_text(text)
    assert get(REPO).source.endswith("from ModelScope")


def test_a_remembered_hub_that_is_gone_is_not_the_end(hubs: Hubs) -> None:
    hubs.hf.add(REPO, FILES)
    get(REPO)
    del hubs.hf.state.repos[REPO]
    hubs.ms.add(REPO, FILES)
    assert get(f"{REPO}:Q8_0").source.endswith("from ModelScope")


def test_a_scheme_asks_that_hub_alone(hubs: Hubs) -> None:
    hubs.ms.add(REPO, FILES)
    with pytest.raises(NotOnHub, match="Hugging Face"):
        get(f"hf://{REPO}")
    assert not hubs.ms.state.log


LLAMA = "LLM-Research/Llama-3.2-1B-Instruct"


def test_a_known_name_has_another_id_on_each_hub(hubs: Hubs) -> None:
    hubs.hf.add("unsloth/Llama-3.2-1B-Instruct", FILES)
    assert get("llama-3.2-1b").full_id == "unsloth/Llama-3.2-1B-Instruct"


def test_an_id_is_never_replaced_by_another(hubs: Hubs) -> None:
    hubs.hf.add("unsloth/Llama-3.2-1B-Instruct", FILES)
    with pytest.raises(NotOnHub, match=LLAMA):
        get(LLAMA)


def test_nowhere_names_both_hubs(hubs: Hubs) -> None:
    with pytest.raises(NotOnHub, match=r"ModelScope .* has no model .*; Hugging Face .* has no"):
        get(REPO)


def test_a_silent_hub_is_not_said_to_lack_the_model(
    hubs: Hubs, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", silent)
    with pytest.raises(NetworkError, match=r"does not answer; Hugging Face .* has no model"):
        get(REPO)
    monkeypatch.setenv("HF_ENDPOINT", silent)
    with pytest.raises(NetworkError, match=r"neither ModelScope .* nor Hugging Face"):
        get(REPO)


def test_what_one_hub_refuses_is_not_taken_from_the_other(hubs: Hubs) -> None:
    hubs.ms.add(REPO, FILES, private=True)
    hubs.hf.add(REPO, FILES)
    with pytest.raises(UsageError, match="ModelScope"):
        get(REPO)


def broken_off(hubs: Hubs, first: FakeHub, name: str, **options: Any) -> None:
    """Half of the file has come from `first`, which then goes away."""
    first.add(REPO, FILES, **options)
    first.fault(SECOND, ("cut", 400_000), *[("status", 503)] * 9)
    with pytest.raises(NetworkError):
        get(name)
    del first.state.repos[REPO]


@pytest.mark.parametrize("first", ["ms", "hf"])
def test_the_other_hub_goes_on_at_the_byte_when_the_sums_agree(
    hubs: Hubs, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    one, other = (hubs.ms, hubs.hf) if first == "ms" else (hubs.hf, hubs.ms)
    broken_off(hubs, one, f"{first}://{REPO}:Q8_0")
    other.add(REPO, FILES)
    said: list[str] = []
    model = get(f"{REPO}:Q8_0", said)
    assert model.path.read_bytes() == FILES[SECOND]
    assert any(f"{SECOND}: already here from" in line for line in said)
    came = [r.headers.get("range", "") for r in other.state.asked("Q8_0")]
    assert any(r and int(r[6:-1]) > 0 for r in came)


def test_another_file_of_that_name_is_not_mixed_in(
    hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    broken_off(hubs, hubs.ms, f"ms://{REPO}:Q8_0")
    theirs = {SECOND: b"GGUF" + bytes(100) * 9000}
    hubs.hf.add(REPO, theirs)
    said: list[str] = []
    assert get(f"{REPO}:Q8_0", said).path.read_bytes() == theirs[SECOND]
    assert any("another sha256 than on Hugging Face: it is not used" in line for line in said)
    assert all("range" not in r.headers for r in hubs.hf.state.asked("cdn"))


def test_whole_files_are_shared_between_the_caches(hubs: Hubs) -> None:
    for one in hubs:
        one.add(REPO, FILES)
    first, second = get(f"ms://{REPO}:Q8_0"), get(f"hf://{REPO}:Q8_0")
    assert second.path.samefile(first.path) and second.path != first.path
    assert not hubs.hf.state.asked("cdn")
