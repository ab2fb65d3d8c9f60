"""A checkpoint that is converted as it streams from a hub: the same bytes, whatever goes wrong."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adapters import LINEAR, lora
from checkpoints import tiny
from hubs import FakeHub, environment, serving

import convert
from convert import Converted, Options, writer
from portable import hub
from portable.errors import CheckpointError, DiskError, NetworkError, UsageError
from portable.obtain import Wish, fetch_checkpoint, obtain
from portable.progress import silent

REPO = "org/Model-1.5B"
BOTH = pytest.mark.parametrize("key", ["ms", "hf"])
ROOT = Path(__file__).parents[1]
MEDIUM = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, environment(monkeypatch, tmp_path / "caches", server.url):
        monkeypatch.setattr("portable.hub.hub_file.PAUSE_SECONDS", 0.01)
        monkeypatch.setattr("convert.streamed.SAVE_BYTES", 0)
        yield server


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of about 10 MB, untied."""
    return tiny(tmp_path_factory.mktemp("medium") / "Model-1.5B", "qwen2", shards=3, **MEDIUM)


@pytest.fixture(scope="module")
def good(medium: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What every conversion of `medium` to Q4_K_M must give."""
    return convert.convert(medium, tmp_path_factory.mktemp("good") / "x.gguf").path.read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def stream(output: Path, quant: str = "Q4_K_M", key: str = "ms", **options: Any) -> Converted:
    """Convert REPO without storing it."""
    wish = Wish(quant, None, False, options.pop("say", lambda _: None), silent, False)
    source = fetch_checkpoint(f"{key}://{REPO}", wish)
    named = Options(quant=quant, name=source.name)
    return convert.convert(source.folder, output, named, remote=source.weights, **options)


def shards(fake: FakeHub) -> list[str]:
    return sorted(p for p in fake.state.repos[REPO].files if p.endswith(".safetensors"))


def left(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir() if path.is_file())


# --- the same bytes


@BOTH
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True, "shards": 2}),
        ("llama", {"shards": 3, "dtype": "F16"}),
        ("phi3", {"shards": 2}),
        ("gemma3", {"shards": 2}),
        ("internlm2", {"shards": 2}),
        ("stablelm_12b", {"shards": 2}),
        ("mixtral", {"shards": 2}),
        ("qwen3", {"shards": 3, "fp8": [48, 40]}),
        ("gpt_oss", {"shards": 2}),
        ("deepseek_v3", {"shards": 2}),
        ("bert", {"dtype": "F32"}),
    ],
)
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "BF16"])
def test_the_same_bytes_as_from_a_folder(
    fake: FakeHub, tmp_path: Path, key: str, family: str, options: dict[str, Any], quant: str
) -> None:
    folder = tiny(tmp_path / "Model-1.5B", family, **options)
    fake.add(REPO, files(folder))
    made = stream(tmp_path / "streamed.gguf", quant, key)
    here = convert.convert(folder, tmp_path / "here.gguf", Options(quant=quant))
    assert made.path.read_bytes() == here.path.read_bytes()
    assert not list((tmp_path / "caches").rglob("*.safetensors"))


def test_every_byte_comes_once_and_nothing_is_stored(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path
) -> None:
    fake.add(REPO, files(medium))
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "x.gguf"
    assert stream(output).path.read_bytes() == good
    for name in shards(fake):
        first, header, rest = fake.state.sent[name]
        assert first == (0, 64) and header[0] == 8 and header[1] < 10_000
        assert rest == (0, (medium / name).stat().st_size)
    assert left(output) == ["x.gguf"]
    stored = sum(p.stat().st_size for p in (tmp_path / "caches").rglob("*") if p.is_file())
    assert stored < 2_000_000 < sum((medium / name).stat().st_size for name in shards(fake))


def test_weights_that_nothing_is_made_of_are_not_fetched(
    fake: FakeHub, good: bytes, medium: Path, tmp_path: Path
) -> None:
    """Some repositories hold the same weights a second time, under another name."""
    twice = files(medium)["model-00001-of-00003.safetensors"]
    fake.add(REPO, {**files(medium), "consolidated.safetensors": twice})
    assert stream(tmp_path / "x.gguf").path.read_bytes() == good
    assert not fake.state.asked("consolidated")


# --- what goes wrong on the way


@BOTH
@pytest.mark.parametrize(
    "faults",
    [
        [("cut", 1_000_000), ("cut", 3)],
        [("cut", 2_000_000), ("no range",)],
        [("status", 503), ("html",), ("cut", 0)],
        [("cut", 500_000), ("status", 500), ("status", 429)],
    ],
    ids=lambda faults: "-".join(fault[0].replace(" ", "_") for fault in faults),
)
def test_a_bad_network_changes_nothing(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path, key: str, faults: list[Any]
) -> None:
    fake.add(REPO, files(medium))
    fake.fault("model-00002-of-00003.safetensors", ("none",), ("none",), *faults)
    assert stream(tmp_path / "x.gguf", key=key).path.read_bytes() == good


@BOTH
def test_a_cut_connection_goes_on_at_the_byte(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path, key: str
) -> None:
    fake.add(REPO, files(medium))
    name = "model-00002-of-00003.safetensors"
    fake.fault(name, ("none",), ("none",), ("cut", 3_000_000))
    assert stream(tmp_path / "x.gguf", key=key).path.read_bytes() == good
    before, after = fake.state.sent[name][2:]
    assert before == (0, 3_000_000) and 2_000_000 < after[0] <= 3_000_000


@BOTH
def test_a_stall_reconnects(
    fake: FakeHub,
    medium: Path,
    good: bytes,
    tmp_path: Path,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.connect(key)  # sets the client's own limit
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr("modelscope_hub._legacy_api.DOWNLOAD_TIMEOUT", 0.3)
    fake.add(REPO, files(medium))
    fake.fault(shards(fake)[0], ("none",), ("none",), ("stall", 1_000_000))
    assert stream(tmp_path / "x.gguf", key=key).path.read_bytes() == good


@BOTH
@pytest.mark.parametrize("turn", [0, 1, 2], ids=["size", "header", "tensors"])
def test_wrong_bytes_are_fetched_again(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path, key: str, turn: int
) -> None:
    fake.add(REPO, files(medium))
    name = "model-00002-of-00003.safetensors"
    fake.fault(name, *[("none",)] * turn, ("wrong",))
    made = stream(tmp_path / "x.gguf", key=key)
    assert made.path.read_bytes() == good
    warned = [w for w in made.warnings if name in w and "sha256" in w]
    assert len(warned) == (turn == 2)
    whole = [span for span in fake.state.sent["model-00003-of-00003.safetensors"] if span[0] == 0]
    assert len(whole) == 2  # its header and itself


def test_one_flipped_bit_of_a_tensor_is_noticed(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path
) -> None:
    """It makes no NaN, and the header stays as it is: only the sha256 tells."""
    right = files(medium)
    name = "model-00002-of-00003.safetensors"
    wrong = bytearray(right[name])
    wrong[-500] ^= 1
    repo = fake.add(REPO, dict(right), lies={name: {"Sha256": hub_sum(right[name])}})
    repo.files[name] = bytes(wrong)
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    with pytest.raises(NetworkError, match="arrives damaged: expected sha256") as caught:
        stream(output)
    assert caught.value.exit_code == 7 and not left(output)
    repo.files[name] = right[name]
    assert stream(output).path.read_bytes() == good


def hub_sum(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@BOTH
def test_always_wrong_ends_with_7_and_leaves_the_earlier_file(
    fake: FakeHub, medium: Path, tmp_path: Path, key: str
) -> None:
    fake.add(REPO, files(medium))
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    output.write_bytes(b"earlier")
    name = "model-00003-of-00003.safetensors"
    fake.fault(name, ("none",), ("none",), *[("wrong",)] * 9)
    with pytest.raises(NetworkError, match=f"{name} arrives damaged") as caught:
        stream(output, key=key)
    assert caught.value.exit_code == 7 and "other hub" in caught.value.hint
    assert left(output) == ["x.gguf"] and output.read_bytes() == b"earlier"


def test_nan_in_what_arrives_right_is_the_models_own(fake: FakeHub, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "Model-1.5B", "qwen2")
    found = files(folder)
    data = bytearray(found["model.safetensors"])
    data[-2:] = b"\xff\x7f"
    fake.add(REPO, {**found, "model.safetensors": bytes(data)})
    with pytest.raises(CheckpointError, match="holds NaN"):
        stream(tmp_path / "x.gguf")


def test_small_files_that_change_on_the_way_are_noticed(
    fake: FakeHub, medium: Path, tmp_path: Path
) -> None:
    fake.add(REPO, files(medium))

    def touch(_: convert.Progress) -> None:
        for path in (tmp_path / "caches").rglob("tokenizer.json"):
            os.utime(path, ns=(1, 1))

    with pytest.raises(CheckpointError, match="changed while it was read"):
        stream(tmp_path / "x.gguf", progress=touch)
    assert not (tmp_path / "x.gguf").exists()


# --- interrupted, and again


def test_the_network_goes_and_comes_back(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path
) -> None:
    fake.add(REPO, files(medium))
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    name = "model-00002-of-00003.safetensors"
    fake.fault(name, ("none",), ("none",), ("cut", 6_000_000), *[("status", 503)] * 20)
    with pytest.raises(NetworkError):
        stream(output)
    assert not output.exists() and len(left(output)) == 2
    fake.state.faults.clear()
    fake.state.sent.clear()
    assert stream(output).path.read_bytes() == good
    assert left(output) == ["x.gguf"]
    assert len(fake.state.sent["model-00001-of-00003.safetensors"]) == 2  # its header
    again = fake.state.sent[name][-1]
    assert 4_000_000 < again[0] <= 6_000_000 and again[1] == (medium / name).stat().st_size


def test_what_ends_before_a_journal_says_how_far_it_is_leaves_nothing(
    fake: FakeHub, medium: Path, tmp_path: Path
) -> None:
    fake.add(REPO, files(medium))
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    fake.fault(shards(fake)[0], ("none",), ("none",), ("cut", 10_000), *[("status", 503)] * 20)
    with pytest.raises(NetworkError):
        stream(output)
    assert shards(fake)[0] in fake.state.sent and not left(output)


def test_without_a_kept_digest_the_file_is_hashed_from_its_beginning(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.sha256.library", lambda: None)
    fake.add(REPO, files(medium))
    name = "model-00002-of-00003.safetensors"
    fake.fault(name, ("none",), ("none",), ("cut", 6_000_000), *[("status", 503)] * 20)
    with pytest.raises(NetworkError):
        stream(tmp_path / "x.gguf")
    fake.state.faults.clear()
    fake.state.sent.clear()
    computed: list[str] = []
    made = stream(tmp_path / "x.gguf", progress=lambda p: computed.append(p.tensor))
    assert made.path.read_bytes() == good
    assert fake.state.sent[name][-1] == (0, (medium / name).stat().st_size)
    assert "token_embd.weight" not in computed


@pytest.mark.parametrize("change", ["quant", "weights", "config", "journal", "partial"])
def test_what_does_not_belong_together_is_done_anew(
    fake: FakeHub, medium: Path, tmp_path: Path, change: str
) -> None:
    fake.add(REPO, files(medium))
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    fake.fault(shards(fake)[1], ("none",), ("none",), ("cut", 6_000_000), *[("status", 503)] * 20)
    with pytest.raises(NetworkError):
        stream(output)
    fake.state.faults.clear()
    quant = CHANGES[change](fake, output, tmp_path / "other" / "Model-1.5B") or "Q4_K_M"
    wanted = tmp_path / "wanted" / "Model-1.5B"
    wanted.mkdir(parents=True)
    for name, data in fake.state.repos[REPO].files.items():
        (wanted / name).write_bytes(data)
    expected = convert.convert(wanted, tmp_path / "wanted.gguf", Options(quant=quant))
    assert stream(output, quant).path.read_bytes() == expected.path.read_bytes()
    assert left(output) == ["x.gguf"]


def another(fake: FakeHub, output: Path, folder: Path) -> None:
    fake.add(REPO, files(tiny(folder, "qwen2", shards=3, seed=1, **MEDIUM)), commit="d" * 40)


def another_config(fake: FakeHub, output: Path, folder: Path) -> None:
    repo = fake.state.repos[REPO]
    config = repo.files["config.json"].replace(b"1000000.0", b"2000000.0")
    fake.add(REPO, {**repo.files, "config.json": config}, commit="d" * 40)


def flipped(suffix: str) -> Callable[[FakeHub, Path, Path], None]:
    def flip(fake: FakeHub, output: Path, folder: Path) -> None:
        path = output.with_name(f".x.gguf.streamed.{suffix}")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"1, ", b"2, ") if suffix == "journal" else data[:-1])

    return flip


CHANGES: dict[str, Callable[[FakeHub, Path, Path], str | None]] = {
    "quant": lambda fake, output, folder: "Q8_0",
    "weights": another,
    "config": another_config,
    "journal": flipped("journal"),
    "partial": flipped("partial"),
}


def test_a_journal_never_speaks_of_another_file(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path
) -> None:
    """The half file goes, and the next run is killed before it knows more than the journal."""
    fake.add(REPO, files(medium))
    output, first, second = tmp_path / "x.gguf", shards(fake)[0], shards(fake)[1]
    ready, gone = [("none",)] * 2, [("status", 503)] * 20
    fake.fault(second, *ready, ("cut", 6_000_000), *gone)
    with pytest.raises(NetworkError):
        stream(output)
    (tmp_path / ".x.gguf.streamed.partial").unlink()
    fake.fault(first, *ready, *gone)
    fake.fault(second)
    with pytest.raises(NetworkError):
        stream(output)
    fake.fault(first)
    assert stream(output).path.read_bytes() == good


def test_a_full_disk_is_told_and_the_same_command_goes_on(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, files(medium))
    write, room = writer.KeptFile.write_at, len(good) // 2

    def full(file: writer.KeptFile, offset: int, data: memoryview) -> None:
        if file.written + data.nbytes > room:
            with file.reported():
                raise OSError(28, "No space left on device")
        write(file, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(writer.KeptFile, "write_at", full)
        with pytest.raises(DiskError, match="disk full"):
            stream(tmp_path / "x.gguf")
    fake.state.sent.clear()
    assert stream(tmp_path / "x.gguf").path.read_bytes() == good
    assert len(fake.state.sent[shards(fake)[0]]) == 2  # its header


def test_a_conversion_of_a_folder_removes_what_a_streamed_one_left(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path
) -> None:
    fake.add(REPO, files(medium))
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    fake.fault(shards(fake)[1], ("none",), ("none",), ("cut", 6_000_000), *[("status", 503)] * 20)
    with pytest.raises(NetworkError):
        stream(output)
    assert convert.convert(medium, output).path.read_bytes() == good
    assert left(output) == ["x.gguf"]


CHILD = """
import sys
from pathlib import Path
import convert.streamed, convert.window
convert.streamed.SAVE_BYTES = 0
if "--no-verify" not in sys.argv:
    convert.window.AHEAD = 1 << 20
sys.argv = ["portable", *sys.argv[1:]]
from portable.cli import main
try:
    main()
finally:
    # Not ru_maxrss, which begins with what the process had that started this one.
    status = Path("/proc/self/status")
    print(status.exists() and status.read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def child(fake: FakeHub, output: Path, *flags: str, **more: str) -> subprocess.Popen[str]:
    caches = output.parent / "caches"
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MODELSCOPE_ENDPOINT": fake.url,
        "MODELSCOPE_CACHE": str(caches),
        **more,
    }
    command = [sys.executable, "-c", CHILD, "convert", f"ms://{REPO}", "--output", str(output)]
    return subprocess.Popen([*command, *flags], env=env, stderr=subprocess.PIPE, text=True)


def bytes_sent(fake: FakeHub) -> int:
    spans = (span for name in shards(fake) for span in fake.state.sent.get(name, []))
    return sum(stop - start for start, stop in spans)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_at_many_points_it_goes_on_at_the_tensor(
    fake: FakeHub, medium: Path, good: bytes, tmp_path: Path, how: signal.Signals
) -> None:
    """What comes twice: the tensors in flight, and what was received before it was asked for."""
    fake.add(REPO, files(medium))
    for name in shards(fake):
        fake.fault(name, *[("slow", 0.02)] * 99)
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    rng, total = random.Random(0), sum((medium / name).stat().st_size for name in shards(fake))
    for _ in range(5):
        before = bytes_sent(fake)
        with child(fake, output, "--stream") as process:
            wait = rng.uniform(0.05, 0.2) * total
            while process.poll() is None and bytes_sent(fake) < before + wait:
                time.sleep(0.002)
            process.send_signal(how)
            process.communicate(timeout=60)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[how]
        assert not output.exists()
    fake.state.faults.clear()
    with child(fake, output, "--stream") as process:
        said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert output.read_bytes() == good
    assert left(output) == ["x.gguf"]
    assert bytes_sent(fake) - total < 6 * 4_000_000


# --- when it streams


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(hub.Hub, "room", lambda self, listing: (Path("/small"), free))


@pytest.mark.parametrize("share", [1.0, 1.2])
def test_it_streams_by_itself_when_the_disk_cannot_hold_the_checkpoint_and_the_file(
    fake: FakeHub, medium: Path, good: bytes, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """That is what `chat` and `serve` do; the file goes to the store."""
    fake.add(REPO, files(medium))
    total = sum((medium / name).stat().st_size for name in shards(fake))
    room(monkeypatch, int(share * total))
    said: list[str] = []
    model = obtain(f"ms://{REPO}", say=said.append)
    assert model.path.read_bytes() == good
    assert any("as they stream" in s and "are free in /small" in s for s in said)
    assert not fake.state.sent[shards(fake)[0]][2:][1:]
    assert obtain(f"ms://{REPO}", offline=True, say=said.append).path == model.path


@pytest.mark.parametrize("keep", [None, True])
def test_a_checkpoint_that_fits_is_stored(
    fake: FakeHub, medium: Path, monkeypatch: pytest.MonkeyPatch, keep: bool | None
) -> None:
    fake.add(REPO, files(medium))
    total = sum((medium / name).stat().st_size for name in shards(fake))
    room(monkeypatch, int(1.5 * total))
    source = fetch_checkpoint(f"ms://{REPO}", Wish(None, None, False, print, silent, keep))
    assert not source.weights
    assert all((source.folder / name).is_file() for name in shards(fake))
    # And what is on the disk does not stream, whatever is wished.
    again = fetch_checkpoint(f"ms://{REPO}", Wish(None, None, False, print, silent, False))
    assert (again.folder, again.weights) == (source.folder, ())


def test_keep_says_so_when_the_disk_is_too_small(
    fake: FakeHub, medium: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, files(medium))
    room(monkeypatch, 5_000_000)
    with pytest.raises(DiskError, match=r"needs 25\.5 MB"):
        fetch_checkpoint(f"ms://{REPO}", Wish(None, None, False, print, silent, True))
    assert not fake.state.asked("model-0")


def test_a_disk_too_small_for_the_file_is_told_before_any_weight(
    fake: FakeHub, medium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, files(medium))
    room(monkeypatch, 1_000_000)
    free = type("Usage", (), {"free": 1_000_000})()
    wish = Wish("Q4_K_M", None, False, print, silent)
    source = fetch_checkpoint(f"ms://{REPO}", wish)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(DiskError, match="not enough room"):
        convert.convert(source.folder, tmp_path / "x.gguf", remote=source.weights)
    assert all(stop < 10_000 for name in shards(fake) for _, stop in fake.state.sent[name])


def test_what_cannot_be_checked_does_not_stream(fake: FakeHub, medium: Path) -> None:
    name = "model-00001-of-00003.safetensors"
    fake.add(REPO, files(medium), lies={name: {"Sha256": ""}})
    with pytest.raises(UsageError, match="no sha256") as caught:
        fetch_checkpoint(f"ms://{REPO}", Wish(None, None, False, print, silent, False))
    assert "--keep" in caught.value.hint


@BOTH
@pytest.mark.parametrize("trusted", [False, True])
def test_a_token_goes_only_where_it_belongs(
    fake: FakeHub,
    medium: Path,
    good: bytes,
    tmp_path: Path,
    key: str,
    trusted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = fake.state.token
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, token)
    if trusted:
        monkeypatch.setenv("PORTABLE_TOKEN_HOST", "127.0.0.1")
    fake.add(REPO, files(medium), gated=True)
    if trusted:
        assert stream(tmp_path / "x.gguf", key=key).path.read_bytes() == good
    else:
        with pytest.raises(UsageError):
            stream(tmp_path / "x.gguf", key=key)
    told = {r.host.partition(":")[0] for r in fake.state.log if token in str(r.headers)}
    assert told == ({"127.0.0.1"} if trusted else set())


def test_an_adapter_is_merged_into_what_streams(fake: FakeHub, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "Model-1.5B", "qwen2", shards=2)
    trained = lora(tmp_path / "adapter", folder, LINEAR, full=("model.norm.weight",))
    fake.add(REPO, files(folder))
    here = convert.convert(folder, tmp_path / "here.gguf", adapter=trained)
    assert stream(tmp_path / "x.gguf", adapter=trained).path.read_bytes() == here.path.read_bytes()


EIGHT_BITS = {"hidden_size": 512, "intermediate_size": 1536, "fp8": [128, 128]}


def test_scales_that_do_not_pass_as_they_were_fetched_are_noticed(
    fake: FakeHub, tmp_path: Path
) -> None:
    """They are used before the place in the file has passed that holds them."""
    folder = tiny(tmp_path / "Model-1.5B", "qwen3", **EIGHT_BITS)
    fake.add(REPO, files(folder))
    fake.fault("model.safetensors", ("none",), ("none",), ("wrong",))
    here = convert.convert(folder, tmp_path / "here.gguf")
    made = stream(tmp_path / "x.gguf")
    assert made.path.read_bytes() == here.path.read_bytes()
    assert any("other bytes than it began with" in warning for warning in made.warnings)


def test_other_scales_than_before_the_interruption_are_noticed(
    fake: FakeHub, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "Model-1.5B", "qwen3", **EIGHT_BITS)
    fake.add(REPO, files(folder))
    name, ready = "model.safetensors", [("none",)] * 3
    fake.fault(name, *ready, ("cut", 3_000_000), *[("status", 503)] * 20)
    with pytest.raises(NetworkError):
        stream(tmp_path / "x.gguf")
    fake.fault(name, ("none",), ("none",), ("wrong",))
    made = stream(tmp_path / "x.gguf")
    assert any("other scales than before" in warning for warning in made.warnings)
    here = convert.convert(folder, tmp_path / "here.gguf")
    assert made.path.read_bytes() == here.path.read_bytes()


# --- what it takes

LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_memory_does_not_grow_with_the_checkpoint(fake: FakeHub, tmp_path: Path) -> None:
    peaks = []
    for number, options in enumerate(({}, LARGE)):
        folder = tiny(tmp_path / str(number), "qwen2", **options)
        fake.add(REPO, files(folder))
        caches = {"MODELSCOPE_CACHE": str(tmp_path / f"caches-{number}")}
        output = tmp_path / f"{number}.gguf"
        with child(fake, output, "--stream", "--no-verify", "--quiet", **caches) as process:
            said = process.communicate(timeout=200)[1]
        assert process.returncode == 0
        peaks.append(1024 * int(said.split()[-1]))
    large = (tmp_path / "1" / "model.safetensors").stat().st_size
    assert large > 250e6 and peaks[1] - peaks[0] < 110e6


def test_the_disk_holds_the_output_and_the_small_files(
    fake: FakeHub, medium: Path, tmp_path: Path
) -> None:
    fake.add(REPO, files(medium))
    most, output = 0, tmp_path / "x.gguf"

    def look(_: convert.Progress) -> None:
        nonlocal most
        found = [path for path in tmp_path.rglob("*") if path.is_file()]
        most = max(most, sum(path.stat().st_blocks * 512 for path in found))

    size = stream(output, progress=look).size
    small = sum(len(data) for name, data in files(medium).items() if "model-" not in name)
    assert most <= 1.02 * size + small + 200_000
