"""`pull`, `list`, `show` and `rm` as a user calls them, on loopback hubs and real small files."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from checkpoints import tiny
from ggufs import split
from hubs import FakeHub, environment, impatient, serving
from typer.testing import CliRunner

from convert import Options, convert
from portable import store
from portable.cli import app
from portable.obtain import Checkpoint, Wish, local
from portable.progress import silent

ROOT = Path(__file__).parents[1]
REPO = "org/Tiny-GGUF"
SOURCE = "org/Tiny-1.5B-Chat"
BOTH = pytest.mark.parametrize("scheme", ["ms://", "hf://"])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, environment(monkeypatch, tmp_path / "caches", server.url):
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("source") / "Tiny-1.5B-Chat", "qwen2")


@pytest.fixture(scope="module")
def ready(checkpoint: Path) -> bytes:
    """A small GGUF, as a hub or another program has it."""
    output = checkpoint.parent / "ready.gguf"
    convert(checkpoint, output, Options(quant="Q4_K_M"))
    return output.read_bytes()


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def path(self) -> Path:
        return Path(self.out.splitlines()[-1])


def portable(*arguments: str | Path, code: int = 0) -> Ran:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return Ran(result.exit_code, result.stdout, result.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# --- pull


@BOTH
def test_pull_without_a_file_makes_the_model(fake: FakeHub, checkpoint: Path, scheme: str) -> None:
    fake.add(SOURCE, contents(checkpoint))
    path = portable("pull", scheme + SOURCE, "--quant", "q8_0").path
    assert path.read_bytes()[:4] == b"GGUF" and path.is_relative_to(store.home())


FILES = {"README.md": b"# Model", "sub/a b.bin": bytes(5000), "sub/模型.txt": b"x", "z.bin": b"z"}


@BOTH
def test_single_files_arrive_as_plain_files(fake: FakeHub, scheme: str, tmp_path: Path) -> None:
    fake.add(REPO, FILES)
    folder = tmp_path / "我的 files"
    ran = portable("pull", scheme + REPO, "README.md", "sub/a b.bin", "--local-dir", folder)
    assert ran.out.splitlines() == [str(folder / "README.md"), str(folder / "sub/a b.bin")]
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert {name: p.read_bytes() for name, p in found.items()} == {
        name: FILES[name] for name in ("README.md", "sub/a b.bin")
    }
    assert not any(p.is_symlink() for p in folder.rglob("*"))
    fake.state.log.clear()
    portable("pull", scheme + REPO, "sub/a b.bin", "--local-dir", folder)
    assert not fake.state.asked("a b.bin")


@BOTH
def test_a_broken_off_file_of_a_folder_goes_on_at_the_byte(
    fake: FakeHub, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    content = fake.add(REPO, {"big.bin": bytes(range(256)) * 4000}).files["big.bin"]
    fake.fault("big.bin", ("cut", 400_000), *[("status", 503)] * 9)
    portable("pull", scheme + REPO, "--local-dir", tmp_path / "d", code=7)
    fake.state.faults.clear()
    fake.state.log.clear()
    portable("pull", scheme + REPO, "--local-dir", tmp_path / "d")
    assert contents(tmp_path / "d") == {"big.bin": content}
    assert any(int(r.headers.get("range", "bytes=0-")[6:-1]) > 0 for r in fake.state.asked("big"))


def test_a_folder_gets_a_copy_of_what_the_cache_has(fake: FakeHub, tmp_path: Path) -> None:
    fake.add(REPO, FILES)
    cached = portable("pull", f"ms://{REPO}", "sub/a b.bin").path
    fake.state.log.clear()
    own = portable("pull", f"ms://{REPO}", "sub/a b.bin", "--local-dir", tmp_path / "d").path
    assert own.read_bytes() == cached.read_bytes() and not own.samefile(cached)
    assert not fake.state.asked("a b.bin")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--include", "*.bin"], {"sub/a b.bin", "z.bin"}),
        (["--include", "sub/"], {"sub/a b.bin", "sub/模型.txt"}),
        (["--exclude", "*.bin", "--exclude", "sub/*"], {"README.md"}),
        (["--include", "sub/*", "--exclude", "*.txt"], {"sub/a b.bin"}),
        ([], set(FILES)),
    ],
)
def test_patterns(fake: FakeHub, tmp_path: Path, flags: list[str], names: set[str]) -> None:
    fake.add(REPO, FILES)
    portable("pull", REPO, "--local-dir", tmp_path / "d", *flags)
    found = {p.relative_to(tmp_path / "d").as_posix() for p in (tmp_path / "d").rglob("*.*")}
    assert found == names


def test_a_file_that_is_not_there_is_named_with_what_is_near(fake: FakeHub) -> None:
    fake.add(REPO, FILES)
    assert "has no file READ.md (it has README.md)" in portable("pull", REPO, "READ.md", code=2).err
    assert "no file of" in portable("pull", REPO, "--include", "*.gguf", code=2).err


@BOTH
def test_a_dry_run_fetches_no_weights_and_says_the_sizes(
    fake: FakeHub, checkpoint: Path, scheme: str
) -> None:
    fake.add(SOURCE, contents(checkpoint) | {"junk.bin": bytes(9000)})
    out = portable("pull", scheme + SOURCE, "--dry-run").out
    assert "model.safetensors" in out and "junk" not in out
    assert "to fetch; " in out and " free in " in out
    header = 8 + int.from_bytes((checkpoint / "model.safetensors").read_bytes()[:8], "little")
    assert max(stop for _, stop in fake.state.sent["model.safetensors"]) == header
    assert "Q4_K_M fits with 512 tokens: " in out
    portable("pull", scheme + SOURCE, "config.json")
    line = next(
        x
        for x in portable("pull", scheme + SOURCE, "--dry-run").out.splitlines()
        if " config.json" in x
    )
    assert line.endswith("is here")


def test_a_dry_run_of_what_is_here_asks_no_hub(fake: FakeHub, ready: bytes) -> None:
    fake.add(REPO, {"m-Q4_K_M.gguf": ready})
    path = portable("pull", REPO).path
    fake.state.log.clear()
    ran = portable("pull", REPO, "--dry-run")
    assert ran.path == path and "nothing to fetch" in ran.err and not fake.state.log


def test_pull_for_programs(fake: FakeHub, ready: bytes) -> None:
    fake.add(REPO, {"m-Q4_K_M.gguf": ready})
    plan = portable("pull", REPO, "--dry-run", "--json").json
    assert plan["missing"] == len(ready) == plan["files"][0]["size"] and plan["free"] > 0
    lines = [json.loads(line) for line in portable("pull", REPO, "--json").out.splitlines()]
    assert lines[-2]["done"] == lines[-2]["total"] == len(ready)
    assert Path(lines[-1]["path"]).read_bytes() == ready


def test_a_dry_run_says_when_the_disk_is_too_small(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(REPO, FILES)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    ran = portable("pull", REPO, "--local-dir", "d", "--dry-run", code=5)
    assert "1.0 kB free" in ran.out and "needs" in ran.err and not Path("d").exists()


@BOTH
def test_a_folder_that_cannot_be_made(fake: FakeHub, scheme: str, tmp_path: Path) -> None:
    fake.add(REPO, FILES)
    (tmp_path / "file").write_text("in the way")
    where = tmp_path / "file" / "d"
    portable("pull", scheme + REPO, "sub/a b.bin")
    assert (
        "cannot store"
        in portable("pull", scheme + REPO, "sub/a b.bin", "--local-dir", where, code=5).err
    )
    assert (
        "is not a folder"
        in portable("pull", scheme + REPO, "--local-dir", tmp_path / "file", code=2).err
    )


# --- list and show


def test_list_and_show_tell_the_same_as_json(fake: FakeHub, ready: bytes) -> None:
    fake.add(REPO, {"tiny-Q4_K_M.gguf": ready})
    path = portable("pull", f"hf://{REPO}").path
    listed = portable("list", "--json").json
    (facts,) = listed["models"]
    assert facts == portable("show", REPO, "--json").json
    assert facts | {"modified": None} == {
        "model": f"hf://{REPO}:Q4_K_M",
        "source": "Hugging Face",
        "revision": None,
        "commit": fake.state.repos[REPO].commit,
        "path": str(path),
        "files": 1,
        "sha256": store.find("hf", REPO, "Q4_K_M").sha256,  # type: ignore[union-attr]
        "modified": None,
        "architecture": "qwen2",
        "parameters": facts["parameters"],
        "quant": "Q4_K_M",
        "size": len(ready),
        "context": 512,
        "cache_bytes_per_token": 2 * 2 * 2 * 32,
        "pre_tokenizer": "qwen2",
        "template": {"system": False, "tools": False, "thinking": False},
        "licence": None,
        "tensors_sha256": facts["tensors_sha256"],
    }
    assert facts["sha256"] and len(facts["tensors_sha256"]) == 64
    assert listed["partial"] == []


def test_what_people_read(fake: FakeHub, checkpoint: Path) -> None:
    assert "nothing here yet" in portable("list").err
    portable("pull", checkpoint, "--quant", "Q8_0")
    line = portable("list").out
    assert str(checkpoint) in line and "Q8_0" in line and "512 tokens" in line
    shown = portable("show", checkpoint).out
    assert "architecture:" in shown and "qwen2" in shown and "plain" in shown


def test_show_of_a_broken_file_says_so_and_fails(tmp_path: Path, ready: bytes) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(ready[:200])
    assert "error:" in portable("show", broken, code=3).out
    assert portable("show", broken, "--json", code=3).json["error"]


def test_show_takes_the_default_quant_of_several(
    fake: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quant in ("Q8_0", "Q4_K_M", "F16"):
        portable("pull", checkpoint, "--quant", quant)
    assert portable("show", checkpoint, "--json").json["quant"] == "Q4_K_M"
    path = next(store.home().rglob("*F16.gguf"))
    assert portable("show", path, "--json").json["quant"] == "F16"
    assert portable("show", path.name, "--json").json["quant"] == "F16"
    monkeypatch.chdir(path.parent)
    assert portable("show", f"./{path.name}", "--json").json["source"] == "folder"
    portable("rm", "-y", f"./{path.name}")
    assert not path.exists() and len(store.listing()) == 2


def test_a_damaged_file_does_not_hide_the_others(fake: FakeHub, checkpoint: Path) -> None:
    for quant in ("Q8_0", "F16"):
        portable("pull", checkpoint, "--quant", quant)
    next(store.home().rglob("*F16.gguf")).write_bytes(b"GGUF")
    models = portable("list", "--json").json["models"]
    assert sorted("error" in facts for facts in models) == [False, True]
    assert "not a whole GGUF" in portable("list").out


def test_what_is_not_here_is_said_with_what_is(fake: FakeHub) -> None:
    assert "nothing is pulled yet" in portable("show", "org/none", code=2).err
    known = portable("show", "Qwen3:4B", "--json").json
    assert known["source"] == "not on this disk" and known["ModelScope"] == "Qwen/Qwen3-4B"
    assert "Qwen3ForCausalLM" in portable("show", "qwen3-4b").out


# --- rm


def test_rm_asks_a_person_and_refuses_a_script(
    fake: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = portable("pull", checkpoint).path
    assert "--yes" in portable("rm", checkpoint, code=2).err and path.exists()
    monkeypatch.setattr("portable.cli.models.sys", FakeSys("n\n"))
    assert portable("rm", checkpoint, code=1) and path.exists()
    monkeypatch.setattr("portable.cli.models.sys", FakeSys("y\n"))
    portable("rm", checkpoint)
    assert not path.exists() and not store.listing() and not path.parent.exists()
    assert (checkpoint / "model.safetensors").exists()


class FakeSys:
    """`sys` at a terminal where this is typed."""

    def __init__(self, typed: str) -> None:
        self.stdin = io.StringIO(typed)
        self.stdin.isatty = lambda: True  # type: ignore[method-assign]
        self.stderr = sys.stderr


@BOTH
def test_rm_deletes_what_was_downloaded_for_it(fake: FakeHub, ready: bytes, scheme: str) -> None:
    fake.add(REPO, {"m-Q4_K_M.gguf": ready, "m-Q8_0.gguf": ready[::-1]})
    path = portable("pull", scheme + REPO).path
    blob = path.resolve()
    ran = portable("rm", "-y", "--json", f"{scheme}{REPO}:q4_k_m").json
    assert ran == {"removed": [str(path)], "kept": []}
    assert not path.exists() and not blob.exists() and not store.listing()


@BOTH
def test_rm_says_where_the_checkpoint_stays(fake: FakeHub, checkpoint: Path, scheme: str) -> None:
    fake.add(SOURCE, contents(checkpoint))
    portable("pull", scheme + SOURCE)
    line = next(x for x in portable("rm", "-y", SOURCE).err.splitlines() if "stays in" in x)
    assert (Path(line.partition(" stays in ")[2]) / "model.safetensors").is_file()


def test_rm_leaves_what_was_there_before(fake: FakeHub, ready: bytes) -> None:
    fake.add(REPO, {"m-Q4_K_M.gguf": ready})
    path = portable("pull", f"ms://{REPO}", "m-Q4_K_M.gguf").path
    portable("pull", f"ms://{REPO}@master")
    assert str(path) in portable("rm", "-y", REPO).err
    assert path.exists() and not store.listing()


def test_rm_keeps_a_blob_that_another_snapshot_has(fake: FakeHub, ready: bytes) -> None:
    repo = fake.add(REPO, {"m-Q4_K_M.gguf": ready})
    path = portable("pull", f"hf://{REPO}").path
    other = path.parents[1] / ("1" * 40) / path.name
    other.parent.mkdir()
    other.symlink_to(path.resolve())
    portable("rm", "-y", REPO)
    assert not path.exists() and other.read_bytes() == repo.files[path.name]


def test_rm_never_deletes_what_a_record_only_points_at(
    fake: FakeHub, tmp_path: Path, ready: bytes
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(ready)
    store.save(store.Record("ms", REPO, "Q4_K_M", str(path), converter="0.1"))
    portable("rm", "-y", REPO)
    assert path.exists() and not store.listing()


def test_rm_of_many_and_of_what_is_not_there(fake: FakeHub, checkpoint: Path) -> None:
    for quant in ("Q8_0", "F16"):
        portable("pull", checkpoint, "--quant", quant)
    portable("rm", "-y", checkpoint, "org/none", code=2)
    assert len(store.listing()) == 2  # all or nothing
    portable("rm", "-y", checkpoint)
    assert not store.listing()
    assert "name the models" in portable("rm", code=2).err


@BOTH
def test_broken_off_work_is_listed_and_pruned(
    fake: FakeHub, scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    impatient(monkeypatch)
    fake.add(REPO, {"m-Q4_K_M.gguf": b"GGUF" * 100_000})
    fake.fault("m-Q4_K_M.gguf", ("cut", 300_000), *[("status", 503)] * 9)
    portable("pull", scheme + REPO, code=7)
    half = store.target("ms", REPO, ".x-Q8_0.gguf.123.abc.partial")
    half.write_bytes(bytes(1000))
    half.with_suffix(".journal").write_text("{}")
    foreign = tmp_path / "caches" / "ms" / "models" / "other.incomplete"
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_bytes(b"another program's")
    assert portable("list", "--json").json["partial"] == []  # somebody may be at work
    monkeypatch.setattr("portable.shelf.BUSY_SECONDS", -1.0)
    partial = portable("list", "--json").json["partial"]
    assert sum(entry["size"] for entry in partial) >= 251_000
    assert "rm --partial" in portable("list").err
    portable("rm", "--partial", "-y")
    assert portable("list", "--json").json["partial"] == []
    names = ("incomplete", "partial", "journal")
    left = [p for p in tmp_path.rglob("*") if any(name in p.name for name in names)]
    assert left == [foreign]


def test_names_with_spaces_and_chinese(
    fake: FakeHub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "我的 模型" / "千问 1.5B")
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "数据 home"))
    path = portable("pull", folder).path
    assert path.is_file() and path.is_relative_to(tmp_path / "数据 home")
    assert str(folder) in portable("list").out
    assert portable("show", folder, "--json").json["path"] == str(path)
    portable("rm", "-y", folder)
    assert not path.exists() and folder.is_dir()


# --- other programs


def lm_studio(home: Path, data: bytes) -> Path:
    path = home / ".lmstudio" / "models" / "org" / "Tiny-GGUF" / "tiny 模型-Q4_K_M.gguf"
    return put(path, data)


def ollama(home: Path, data: bytes) -> Path:
    models = home / ".ollama" / "models"
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "ab" * 32}
    manifest = {"layers": [{"mediaType": "x", "digest": "sha256:0"}, layer]}
    put(models / "manifests/hf.co/org/Tiny-GGUF/Q4_K_M", json.dumps(manifest).encode())
    put(models / "manifests/registry.ollama.ai/library/tiny/1b", json.dumps(manifest).encode())
    return put(models / "blobs" / ("sha256-" + "ab" * 32), data)


def llama_cpp(home: Path, data: bytes) -> Path:
    return put(home / ".cache/llama.cpp/org_Tiny-GGUF_tiny-Q4_K_M.gguf", data)


def hugging_face(home: Path, data: bytes) -> Path:
    folder = home / ".cache/huggingface/hub/models--org--Tiny-GGUF"
    blob = put(folder / "blobs" / ("cd" * 32), data)
    path = folder / "snapshots" / ("1" * 40) / "sub" / "tiny-Q4_K_M.gguf"
    path.parent.mkdir(parents=True)
    path.symlink_to(blob)
    return path


def modelscope(home: Path, data: bytes) -> Path:
    name = "models/org--Tiny-GGUF/snapshots/master/tiny-Q4_K_M.gguf"
    return put(home.parent / "ms" / name, data)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


APPS = [lm_studio, ollama, llama_cpp, hugging_face, modelscope]


@pytest.fixture
def home(fake: FakeHub) -> Path:
    return Path(os.environ["HOME"])


@pytest.mark.parametrize("program", APPS)
def test_what_another_program_has_is_used_in_place(
    fake: FakeHub, home: Path, ready: bytes, program: Any
) -> None:
    path = program(home, ready)
    before = {p for p in home.rglob("*") if p.is_file()}
    ran = portable("pull", REPO)
    assert ran.path == path and f"using {path}, which " in ran.err
    assert not fake.state.log and not store.listing()
    facts = next(f for f in portable("list", "--all", "--json").json["models"])
    assert facts["path"] == facts["model"] == str(path) and facts["architecture"] == "qwen2"
    assert portable("list", "--json").json["models"] == []
    assert "belongs to" in portable("rm", "-y", path, code=2).err
    assert portable("show", path, "--json").json["source"] == facts["source"]
    assert {p for p in home.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("program", APPS)
@pytest.mark.parametrize("asked", [f"{REPO}:Q8_0", f"{REPO}@v1", "org/Other-GGUF"])
def test_another_quant_revision_or_repository_is_not_taken(
    fake: FakeHub, home: Path, ready: bytes, program: Any, asked: str
) -> None:
    program(home, ready)
    assert "has no model" in portable("pull", asked, code=2).err


@pytest.mark.parametrize("program", APPS)
def test_half_a_file_is_not_taken(fake: FakeHub, home: Path, ready: bytes, program: Any) -> None:
    program(home, ready[:3000])
    assert "has no model" in portable("pull", REPO, code=2).err


def test_another_quant_is_offered(fake: FakeHub, home: Path, ready: bytes) -> None:
    fake.add(REPO, {"tiny-Q8_0.gguf": ready})
    path = lm_studio(home, ready)
    ran = portable("pull", f"hf://{REPO}:Q8_0")
    assert f"LM Studio has another file of {REPO}: portable chat {path}" in ran.err
    assert ran.path != path


def test_the_other_hubs_file_is_not_taken_for_a_scheme(
    fake: FakeHub, home: Path, ready: bytes
) -> None:
    lm_studio(home, ready)
    assert "ModelScope" in portable("pull", f"ms://{REPO}", code=2).err
    assert portable("pull", f"hf://{REPO}").path.is_relative_to(home)


def test_a_split_model_of_another_program(fake: FakeHub, home: Path, ready: bytes) -> None:
    whole = lm_studio(home, ready)
    parts = split(whole, 2)
    whole.unlink()
    assert portable("pull", REPO).path == parts[0]
    assert portable("show", parts[1], "--json").json["files"] == 2
    parts[1].unlink()
    assert "has no model" in portable("pull", REPO, code=2).err


def test_ollamas_own_names(fake: FakeHub, home: Path, ready: bytes) -> None:
    path = ollama(home, ready)
    (home / ".ollama/models/manifests/hf.co/org/Tiny-GGUF/Q4_K_M").unlink()
    for text in (b"{", b"[]", b'{"layers": 5}', b'{"layers": [{"digest": "../../x"}, 7]}'):
        put(home / ".ollama/models/manifests/registry.ollama.ai/library/odd/1b", text)
        assert portable("show", "tiny:1b", "--json").json["path"] == str(path)
    assert "Ollama: tiny:1b" in portable("list", "--all").out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_is_shown(fake: FakeHub, home: Path, ready: bytes) -> None:
    folder = lm_studio(home, ready).parent
    (folder / os.fsdecode(b"m-\xff-Q8_0.gguf")).write_bytes(ready)
    assert "m-?-Q8_0.gguf" in portable("list", "--all").out
    assert len(portable("list", "--all", "--json").json["models"]) == 2


def test_lm_studio_kept_elsewhere(fake: FakeHub, home: Path, ready: bytes, tmp_path: Path) -> None:
    put(home / ".lmstudio-home-pointer", str(tmp_path / "studio").encode())
    settings = json.dumps({"downloadsFolder": str(tmp_path / "big disk")})
    put(tmp_path / "studio" / "settings.json", settings.encode())
    path = put(tmp_path / "big disk/org/Tiny-GGUF/tiny-q4_k_m.gguf", ready)
    assert portable("pull", "ORG/tiny-gguf").path == path


# --- two processes


def another(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "portable.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def waits(child: subprocess.Popen[str]) -> bool:
    assert child.stderr
    return "another process: waiting for it" in child.stderr.readline()


def test_a_second_process_waits_and_uses_what_the_first_made(
    fake: FakeHub, checkpoint: Path
) -> None:
    real = checkpoint.resolve()
    with store.turn("local", str(real), None, lambda: None) as waited:
        assert not waited
        child = another("pull", checkpoint)
        assert waits(child)
        record = store.Record("local", str(real), "Q4_K_M", "", commit=local.state(real))
        wish = Wish(None, None, True, lambda _: None, silent)
        made = local.convert_into_store(Checkpoint(real, real.name), record, wish)
        time.sleep(0.5)
        assert child.poll() is None
    out, err = child.communicate(timeout=60)
    assert Path(out.strip()) == made.path and "converting" not in err


def test_a_download_is_waited_for_too(fake: FakeHub, ready: bytes) -> None:
    fake.add(REPO, {"m-Q4_K_M.gguf": ready})
    with store.turn("ms", REPO, None, lambda: None):
        child = another("pull", REPO)
        assert waits(child)
        path = put(store.target("ms", REPO, "first.gguf"), ready)
        store.save(store.Record("ms", REPO, "Q4_K_M", str(path)))
    out, _ = child.communicate(timeout=60)
    assert Path(out.strip()) == path and not fake.state.asked("FilePath")


def test_the_next_one_works_when_the_first_dies(fake: FakeHub, checkpoint: Path) -> None:
    with store.turn("local", str(checkpoint.resolve()), None, lambda: None):
        child = another("pull", checkpoint)
        assert waits(child)
    out, err = child.communicate(timeout=60)
    assert Path(out.strip()).is_file() and "converting" in err


def test_ctrl_c_ends_the_wait(fake: FakeHub, checkpoint: Path) -> None:
    with store.turn("local", str(checkpoint.resolve()), None, lambda: None):
        child = another("pull", checkpoint)
        assert waits(child)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 130 and "Traceback" not in err


# --- the shell


def completed(line: str, cwd: Path) -> set[str]:
    env = {**os.environ, "_PORTABLE_COMPLETE": "complete_bash", "COMP_WORDS": line}
    env |= {"COMP_CWORD": str(len(line.split(" ")) - 1), "PYTHONPATH": str(ROOT)}
    code = (
        "import sys\nfrom portable.cli import app\n"
        "try: app(prog_name='portable')\n"
        "finally: print('LOADED', sorted({'numpy', 'huggingface_hub', 'modelscope_hub',"
        " 'llama_cpp', 'gguf', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True
    )
    assert "LOADED []" in ran.stderr, ran.stderr
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    "command", ["chat", "serve", "convert", "pull", "show", "rm", "bench", "imatrix"]
)
def test_names_complete_in_the_shell(
    fake: FakeHub, ready: bytes, command: str, tmp_path: Path
) -> None:
    fake.add(REPO, {"tiny-Q4_K_M.gguf": ready})
    portable("pull", REPO)
    found = completed(f"portable {command} qwen2.5-0", tmp_path)
    assert found == {"qwen2.5-0.5b", "qwen2.5-0.5b-instruct"}
    assert completed(f"portable {command} org", tmp_path) == {REPO}
    assert completed(f"portable {command} ./", tmp_path) == set()  # the shell knows paths
