"""What a model would take of this machine, told before any weight is there."""

from __future__ import annotations

import json
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoints import tiny
from ggufs import split
from hubs import FakeHub, environment, serving
from typer.testing import CliRunner
from workers import worker

import convert
from convert import Options
from portable import gguf
from portable.cli.app import app
from portable.engine import layout
from portable.engine.config import EngineConfig
from portable.engine.dry_run import Request as LaidOut
from portable.engine.kernels import Attention, Matrix, Operation, Request, Sum, Timed
from portable.engine.llama import Llama
from portable.engine.offload.device import Device
from portable.engine.offload.wish import Wish
from portable.errors import DiskError, ModelFileError, NotEnoughMemory, UnsupportedModel
from portable.fit.fit import Case, Question, Row, _case, choose, rows
from portable.fit.machine import Machine
from portable.fit.variant import Variant
from portable.obtain import fitting, ready, remote
from portable.obtain.look import look
from portable.obtain.model import Wish as Asked
from portable.progress import silent

REPO = "org/Model-1.5B"
TIMES = Machine.times
CASE = _case
WIDE = {"hidden_size": 256, "intermediate_size": 512}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, environment(monkeypatch, tmp_path / "caches", server.url):
        yield server


@pytest.fixture(autouse=True)
def timed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel takes a nanosecond, a value or as a whole."""
    monkeypatch.setattr(
        Machine, "times", lambda self, wanted, say, again: dict.fromkeys(wanted, Timed(1e-9))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("fit") / "Model-1.5B", "qwen2", **WIDE)


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as GGUF files."""
    there = tmp_path_factory.mktemp("ggufs")
    return {
        quant: convert.convert(folder, there / f"Model-{quant}.gguf", Options(quant=quant)).path
        for quant in ("Q8_0", "Q4_K_M", "Q4_0")
    }


def asked(quant: str | None = None) -> Asked:
    return Asked(quant, None, False, lambda _: None, silent)


def host(free: int) -> Device:
    return Device("CPU", "", free, free, "cpu", "CPU")


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["fit", *arguments])
    return done.exit_code, done.stdout, done.stderr


def facts(*arguments: str) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


# --- what a name can mean


def test_a_folder_is_every_file_that_it_could_become(folder: Path, files: dict[str, Path]) -> None:
    found = look(str(folder), asked())
    variants = {variant.quant: variant for variant in found.variants}
    assert found.default == "Q4_K_M" and set(variants) <= set(convert.quant_names())
    for quant, path in files.items():
        assert variants[quant].size == path.stat().st_size == variants[quant].disk
        assert variants[quant].heads[0].infos == gguf.read(path).infos
        assert variants[quant].fetch == 0


def test_of_a_checkpoint_on_a_hub_no_weight_is_fetched(fake: FakeHub, folder: Path) -> None:
    fake.add(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    said = facts(f"ms://{REPO}")
    weights = folder / "model.safetensors"
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    assert max(stop for _, stop in fake.state.sent[weights.name]) == header
    assert said["choice"] == "Q4_K_M"
    assert {row["download"] for row in said["quants"]} == {weights.stat().st_size}


@pytest.mark.parametrize("slack", [64, 1 << 14])
def test_of_ggufs_on_a_hub_the_vocabulary_is_fetched_once(
    fake: FakeHub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, slack: int
) -> None:
    monkeypatch.setattr("portable.obtain.heads._SLACK", slack)
    monkeypatch.setattr("portable.gguf.BLOCK", 1 << 12)
    fake.add(REPO, {path.name: path.read_bytes() for path in files.values()})
    found = look(f"hf://{REPO}", asked())
    assert [variant.quant for variant in found.variants] == ["Q8_0", "Q4_K_M", "Q4_0"]
    for variant in found.variants:
        path = files[variant.quant]
        assert variant.heads[0].infos == gguf.read(path).infos
        assert variant.heads[0].start == gguf.read(path).start
        assert (variant.size, variant.fetch) == (path.stat().st_size, path.stat().st_size)
    _, *others = (fake.state.sent[path.name] for path in files.values())
    wanted = gguf.read(files["Q8_0"]).start
    if slack == 64:
        assert all(start > wanted // 2 for sent in others for start, _ in sent)


def test_another_model_in_the_repository_is_read_by_itself(
    fake: FakeHub, files: dict[str, Path], tmp_path: Path
) -> None:
    other = convert.convert(tiny(tmp_path / "m", "llama"), tmp_path / "Other-Q8_0.gguf").path
    paths = [files["Q4_0"], other]
    fake.add(REPO, {path.name: path.read_bytes() for path in paths})
    found = {variant.quant: variant for variant in look(f"ms://{REPO}", asked()).variants}
    assert found["Q8_0"].heads[0].infos == gguf.read(other).infos


def test_a_split_gguf_is_one_row(fake: FakeHub, files: dict[str, Path], tmp_path: Path) -> None:
    whole = shutil.copy(files["Q4_0"], tmp_path / "m-Q4_0.gguf")
    parts = split(Path(whole), 2)
    fake.add(REPO, {path.name: path.read_bytes() for path in parts})
    said = facts(f"ms://{REPO}")
    (row,) = said["quants"]
    assert row["quant"] == "Q4_0" and row["fits"]
    assert row["size"] == row["download"] == sum(path.stat().st_size for path in parts)


def outdated(path: Path, to: Path) -> Path:
    """The file with a tensor of a type that llama.cpp gave up: 31 was Q4_0_4_4."""
    data = bytearray(path.read_bytes())
    name = gguf.read(path).infos[3].name.encode()
    at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    (dimensions,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at + 4 + 8 * dimensions, 31)
    to.write_bytes(data)
    return to


@pytest.mark.parametrize("name", ["A-Q4_0_4_4.gguf", "Z-Q4_0_4_4.gguf"])
def test_a_file_that_llama_cpp_gave_up_hides_no_other(
    fake: FakeHub, files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    old = outdated(files["Q4_0"], tmp_path / name)
    fake.add(REPO, {path.name: path.read_bytes() for path in [old, *files.values()]})
    code, out, said = run(f"ms://{REPO}", "--json")
    assert code == 0 and f"leaving {name} out" in said
    assert [row["quant"] for row in json.loads(out)["quants"]] == ["Q8_0", "Q4_K_M", "Q4_0"]
    fake.add("org/Old", {name: old.read_bytes()})
    code, _, said = run("ms://org/Old")
    assert code == ModelFileError.exit_code and "type 31" in said


def test_what_llama_cpp_refuses_does_not_fit(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(files["Q4_0"].read_bytes().replace(b"qwen2", b"qwenX"))
    code, out, said = run(str(path))
    assert code == UnsupportedModel.exit_code
    assert "llama.cpp refuses it" in out and "unknown model architecture" in said


def test_layers_that_were_asked_for_and_have_no_room_are_a_row(files: dict[str, Path]) -> None:
    (variant,) = look(str(files["Q4_0"]), asked()).variants
    gpu = Device("CUDA0", "Card", 1 << 20, 1 << 30, "gpu", "CUDA")
    case = CASE(variant, Question(Wish(gpu_layers="all"), [gpu, host(8 << 30)]))
    assert not case.fits and case.plan.devices == ("CUDA0",)


def test_devices_are_laid_out_in_the_order_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def noted(_: object, chosen: list[Device], *__: object) -> SimpleNamespace:
        taken.extend(device.name for device in chosen)
        return SimpleNamespace()

    monkeypatch.setattr(layout, "model_params", noted)
    here = [Device(name, "", 0, 0) for name in ("CUDA0", "RPC0", "CUDA1")]
    layout._model_params(LaidOut("m.gguf", 1, 1, 1, devices=("RPC0", "CUDA0")), here)
    assert taken == ["RPC0", "CUDA0"]


def test_a_quantization_that_is_not_there_is_told(fake: FakeHub, files: dict[str, Path]) -> None:
    fake.add(REPO, {path.name: path.read_bytes() for path in files.values()})
    code, _, said = run(f"ms://{REPO}:Q6_K")
    assert code == 2 and "has no Q6_K file" in said and "Model-Q8_0.gguf" in said


# --- the table


def test_a_file_is_shown_as_it_would_run(files: dict[str, Path]) -> None:
    code, out, _ = run(str(files["Q4_0"]), "--context", "512", "--kv-type", "q8_0")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("* Q4_0 ")][:1]
    assert " here " in line and line.endswith("fits with 512 tokens in q8_0")
    said = facts(str(files["Q4_0"]), "--context", "512")
    (row,) = said["quants"]
    assert (row["context"], row["kv_type"], row["quant"]) == (512, "f16", "Q4_0")
    layers, groups, length = 2, 2, 64
    assert row["cache"] == 512 * layers * groups * 2 * length * 2
    parts = row["weights"] + row["cache"] + row["compute"] + row["process"]
    assert row["memory"] == parts and row["resident"] >= parts
    assert row["tokens_per_second"] > 0 and row["first_token_seconds"] > 0


def test_a_named_quantization_is_alone_in_the_table(folder: Path) -> None:
    said = facts(str(folder), "--quant", "q8_0")
    assert [row["quant"] for row in said["quants"]] == ["Q8_0"] and said["choice"] == "Q8_0"


def test_what_does_not_fit_has_an_exit_code_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=80_000)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        code, out, err = run(str(folder), "--quant", "F32")
    assert code == 5 and "not enough disk" in out and "80.0 kB are free" in err
    monkeypatch.setattr("portable.engine.machine.available_memory", lambda: 100 << 20)
    code, out, err = run(str(folder), "--context", "1000000")
    assert code == 4 and "not enough memory" in out and "nothing of" in err


# --- deciding


def found(folder: Path, free: int) -> list[Row]:
    question = Question(Wish(context=512), [host(free)])
    return rows(look(str(folder), asked()), question, lambda _: None)


def test_the_default_is_taken_if_it_fits_else_the_next_smaller(folder: Path) -> None:
    every = found(folder, 1 << 34)
    best = choose(every, "Q4_K_M")
    assert best and best.variant.quant == "Q4_K_M"
    too_large = [
        replace(row, lacks="memory") if row.variant.size >= best.variant.size else row
        for row in every
    ]
    other = choose(too_large, "Q4_K_M")
    assert other and other.fits and not other.variant.needs_imatrix
    left = [row for row in too_large if row.fits and not row.variant.needs_imatrix]
    assert other.variant.size == max(row.variant.size for row in left)
    assert choose([replace(row, lacks="disk") for row in every], "Q4_K_M") is None


def test_where_there_is_no_default_the_largest_that_fits_is_taken(folder: Path) -> None:
    best = choose(found(folder, 1 << 34), "Q4_K_XXL")
    assert best and best.variant.quant == "F32"


def test_more_layers_and_a_longer_prompt_take_longer(tmp_path: Path) -> None:
    def one(layers: int, prompt: int) -> Row:
        name = tiny(tmp_path / f"m{layers}-{prompt}", "qwen2", num_hidden_layers=layers)
        question = Question(Wish(context=512), [host(1 << 34)], prompt=prompt)
        return rows(look(str(name), asked("Q8_0")), question, lambda _: None)[0]

    small, deep, long = one(2, 64), one(6, 64), one(2, 512)
    assert small.rate and deep.rate and small.first_token and long.first_token
    assert deep.rate < small.rate and long.first_token > small.first_token


# --- this machine


def test_what_was_timed_is_kept_for_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def timing(requests: list[Request]) -> list[list[Timed]]:
        asked.append(sum(len(request.operations) for request in requests))
        return [[Timed(2e-9, repacked=True)] * len(r.operations) for r in requests]

    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "new"))
    monkeypatch.setattr("portable.fit.machine.time_kernels", timing)
    monkeypatch.setattr("portable.fit.machine.others", lambda: 0.0)
    first: list[Operation] = [Sum(64), Attention(4, 2, 64, 64, 256, vectors=512)]
    every = [*first, Matrix(8, 64, 68)]

    def times(machine: Machine, wanted: list[Operation], again: bool = False) -> None:
        found = TIMES(machine, wanted, lambda _: None, again=again)
        assert found == dict.fromkeys(wanted, Timed(2e-9, repacked=True))

    times(Machine(2), first)
    times(Machine(2), first)
    times(Machine(2), every)
    times(Machine(2), every, again=True)
    times(Machine(4), first)
    for damage in (b"no JSON", b'{"\xff": []}'):
        Machine(2).path.write_bytes(damage)
        times(Machine(2), first)
    assert asked == [2, 1, 3, 2, 2, 2]


def test_who_comes_while_another_measures_takes_what_that_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring, asked = threading.Event(), list[int]()

    def timing(requests: list[Request]) -> list[list[Timed]]:
        asked.append(len(requests))
        measuring.set()
        time.sleep(0.3)
        return [[Timed(1.0)]]

    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "new"))
    monkeypatch.setattr("portable.fit.machine.time_kernels", timing)
    monkeypatch.setattr("portable.fit.machine.others", lambda: 0.0)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(TIMES, Machine(2), [Sum(64)], print, again=False)
        assert measuring.wait(10)
        assert TIMES(Machine(2), [Sum(64)], print, again=False) == first.result()
    assert asked == [1]


def test_what_was_timed_among_busy_programs_is_told_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "new"))
    monkeypatch.setattr("portable.fit.machine.time_kernels", lambda _: [[Timed(1.0)]])
    monkeypatch.setattr("portable.fit.machine.others", lambda: 1.5)
    said: list[str] = []
    TIMES(Machine(2), [Sum(64)], said.append)
    assert "1.5 cores busy" in said[-1] and not Machine(2).path.exists()


# --- what is fetched


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that holds only what takes no more than Q4_0 does; what is said on it."""
    monkeypatch.setattr("portable.obtain.fitting.available_memory", lambda: 0)

    def case(variant: Variant, question: Question) -> Case:
        made = CASE(variant, question)
        return replace(made, why="" if variant.quant == "Q4_0" else "it is too large")

    monkeypatch.setattr("portable.fit.fit._case", case)
    return []


def test_what_nobody_named_is_fetched_as_it_fits(
    fake: FakeHub, files: dict[str, Path], small: list[str]
) -> None:
    fake.add(REPO, {path.name: path.read_bytes() for path in files.values()})
    wish = replace(asked(), say=small.append)
    made = ready(f"ms://{REPO}", wish)
    assert made.path.name == files["Q4_0"].name
    assert "Q4_K_M would not fit this machine: taking Q4_0" in small
    assert ready(f"ms://{REPO}", wish).path == made.path
    named = ready(f"ms://{REPO}:Q8_0", wish)
    assert named.path.name == files["Q8_0"].name


def test_where_nothing_fits_nothing_is_fetched_unless_that_is_forced(
    fake: FakeHub, files: dict[str, Path], small: list[str], tmp_path: Path
) -> None:
    path = files["Q4_K_M"]
    fake.add(REPO, {path.name: path.read_bytes()})
    with pytest.raises(NotEnoughMemory, match="it is too large"):
        ready(f"ms://{REPO}", asked())
    assert not list((tmp_path / "caches").rglob("*.gguf"))
    made = ready(f"ms://{REPO}", replace(asked(), force=True))
    assert made.path.read_bytes() == path.read_bytes()


def test_all_files_of_a_split_model_count(
    fake: FakeHub, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = split(Path(shutil.copy(files["Q4_0"], tmp_path / "m-Q4_0.gguf")), 2)
    fake.add(REPO, {path.name: path.read_bytes() for path in parts})
    found = remote.find(*remote.targets_of(remote.ref(f"ms://{REPO}"), asked()))
    for less, small in ((0, False), (-1, True)):
        free = fitting._ALLOWANCE + sum(path.stat().st_size for path in parts) - less
        monkeypatch.setattr(fitting, "available_memory", lambda free=free: free)
        assert fitting._is_small(found, asked()) == small


def test_a_disk_that_looks_too_small_may_be_forced(
    fake: FakeHub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files["Q4_K_M"]
    fake.add(REPO, {path.name: path.read_bytes()})
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match="are free"):
        ready(f"ms://{REPO}", asked())
    assert ready(f"ms://{REPO}", replace(asked(), force=True)).path.is_file()


# --- devices


def test_of_a_device_what_is_told_is_what_lies_there(files: dict[str, Path]) -> None:
    path = files["Q8_0"]
    with worker("--port", "0", "--memory", "1GB") as lent:
        flags = ["--context", "512", "--rpc", lent.endpoint, "--gpu-layers", "2"]
        (row,) = facts(str(path), *flags)["quants"]
        config = EngineConfig(
            path, context=512, slots=1, threads=1, gpu_layers=2, rpc=(lent.endpoint,)
        )
        with closing(Llama(config)) as made:
            found = made.buffers
    (here,) = (name for name in found.cache if name.startswith("RPC"))  # others came before it
    device, host = row["devices"]
    assert (device["name"], device["layers"], host["layers"]) == ("RPC0", 2, 1)
    assert device["weights"] == pytest.approx(found.weights[here], abs=1 << 16)
    assert device["cache"] == pytest.approx(found.cache[here], abs=1 << 16)
    assert device["compute"] == pytest.approx(found.compute[here], abs=1 << 16)
    assert row["tokens_per_second"] is None and row["first_token_seconds"] is None


def test_the_choice_tells_where_its_layers_would_lie(files: dict[str, Path]) -> None:
    def choice(*flags: str) -> str:
        code, out, err = run(str(files["Q8_0"]), "--context", "512", *flags)
        assert code == 0, err
        (line,) = [line for line in out.splitlines() if "would be taken" in line]
        return line.removeprefix("* Q8_0 would be taken, with ")

    assert choice() == "all layers on the CPU"
    assert choice("--gpu-layers", "0") == "all layers on the CPU, as asked by --gpu-layers 0"
    with worker("--port", "0", "--memory", "1GB") as lent:
        rpc = ("--rpc", lent.endpoint, "--gpu-layers")
        assert choice(*rpc, "all") == "all 3 layers on RPC0: as asked by --gpu-layers all"
        assert choice(*rpc, "2") == "3 layers, 2 on RPC0, 1 on CPU: as asked by --gpu-layers 2"


def test_a_worker_that_is_not_there_is_told_as_by_chat(files: dict[str, Path]) -> None:
    with worker() as lent:
        endpoint = lent.endpoint
    flags = (str(files["Q8_0"]), "--rpc", endpoint)
    code, out, err = run(*flags)
    assert code != 0 and out == "" and f"no worker listens at {endpoint}" in err
    assert len(err.splitlines()) == 1
    chat = CliRunner().invoke(app, ["chat", *flags, "Hi."])
    assert (chat.exit_code, chat.stdout, chat.stderr) == (code, out, err)
