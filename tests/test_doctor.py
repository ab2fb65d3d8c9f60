"""`portable doctor`: each finding from made-up facts, and the whole of it on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hubs as loopback
import pytest
from workers import worker

from portable.cli.doctor import lines, script
from portable.doctor import (
    Report,
    cpu,
    disk,
    gpus,
    hubs,
    library,
    memory,
    network,
    power,
    system,
    tools,
)
from portable.doctor.cpu import Cpu
from portable.doctor.disk import Disk
from portable.doctor.finding import Finding
from portable.doctor.hubs import Reach
from portable.doctor.library import Installed
from portable.doctor.memory import Memory
from portable.doctor.network import Network
from portable.doctor.power import Power
from portable.doctor.report import conclude
from portable.doctor.system import System
from portable.doctor.tools import Tools
from portable.engine import build
from portable.engine.adapters import Adapter
from portable.engine.build import Target
from portable.engine.cores import Cores
from portable.engine.death import Cause
from portable.engine.findings import Facts
from portable.engine.libllama import Library
from portable.engine.nvidia import Gpu, Nvidia
from portable.engine.offload.device import Device
from portable.engine.processor import Processor

REBUILD = "rebuild it"
GB = 10**9
RTX = Gpu(0, "RTX 3050", capability=(8, 6), total=4 << 30, free=3 << 30)
NVIDIA = Nvidia("550.54", "12.4", (RTX,))
BUILT = Library("0.3.36", "0c1e570", {"CPU": {"AVX2": "1"}}, ["CPU"], [], [])


def told(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.name, finding.status) for finding in findings]


def only(findings: Iterable[Finding], status: str, *words: str) -> Finding:
    """The one finding that is not OK, or the last one; it says all these words."""
    every = list(findings)
    bad = [finding for finding in every if finding.status != "OK"]
    found = bad[0] if bad else every[-1]
    assert len(bad) <= 1 and found.status == status, every
    said = f"{found.found}\n{found.mend}\n{found.command}"
    assert all(word in said for word in words), said
    assert found.status == "OK" or found.mend or found.command, "nothing says what to do"
    return found


HERE = System("linux", "Debian", "Python 3.13.1", 64, "utf-8")


@pytest.mark.parametrize(
    "change, status, words",
    [
        ({}, "OK", ["utf-8"]),
        ({"bits": 32}, "FAIL", ["64-bit Python"]),
        ({"translated": True}, "WARN", ["Rosetta", "arm64"]),
        ({"encoding": "latin-1"}, "WARN", ["Chinese", "export LC_ALL=C.UTF-8"]),
        ({"encoding": "cp1252", "kind": "win32"}, "WARN", ["chcp 65001"]),
        ({"encoding": "no-such"}, "WARN", ["no-such"]),
        ({"terminal": "linux"}, "WARN", ["console"]),
    ],
)
def test_system(change: dict[str, Any], status: str, words: list[str]) -> None:
    only(system.judge(dataclasses.replace(HERE, **change)), status, *words)


def chip(*has: str, architecture: str = "x86_64") -> Processor:
    known = frozenset({"SSE3", "AVX", "AVX2", "AVX512"})
    return Processor("A chip", architecture, frozenset(has), known)


FOUR = Cores(frozenset(range(4)), 4)


@pytest.mark.parametrize(
    "has, compiled, status, words",
    [
        (
            ["AVX", "AVX2"],
            {"AVX": "1", "AVX2": "1", "OPENMP": "1"},
            "OK",
            ["uses all of AVX, AVX2"],
        ),
        (["AVX"], {"AVX": "1", "AVX2": "1"}, "FAIL", ["built for AVX2", "lacks", REBUILD]),
        (["AVX", "AVX2", "AVX512"], {"AVX": "1"}, "WARN", ["without AVX2, AVX512", REBUILD]),
        (["AVX"], {"AVX": "1"}, "OK", ["it has no AVX2"]),
        (["AVX"], None, "OK", ["AVX"]),
        # What the system does not tell of is not missing.
        (["AVX2"], {"AVX2": "1", "F16C": "1"}, "OK", ["AVX2"]),
    ],
)
def test_instruction_sets_are_compared_both_ways(
    has: list[str], compiled: dict[str, str] | None, status: str, words: list[str]
) -> None:
    only(cpu.judge(Cpu(chip(*has), FOUR, 4, 4), compiled, REBUILD), status, *words)


def test_cores_by_kind_and_what_a_container_leaves() -> None:
    hybrid = Cpu(chip(), Cores(frozenset({0, 1}), 2, pinned=True), 6, 8)
    only(cpu.judge(hybrid, {}, REBUILD), "OK")
    found = next(iter(cpu.judge(hybrid, {}, REBUILD))).found
    assert found == (
        "A chip: 6 cores, 8 logical, 2 logical ones of them are performance cores; 2 threads work"
    )
    cramped = Cpu(Processor("A chip", "", frozenset(), frozenset()), Cores(frozenset({0}), 1), 8, 8)
    assert told(cpu.judge(cramped, None, REBUILD)) == [("processor", "WARN")]


@pytest.mark.parametrize(
    "facts, status, words",
    [
        (Memory(16 * GB, 9 * GB, 9 * GB), "OK", ["none"]),
        (Memory(16 * GB, GB, GB, largest="fox (process 7) holds 9.0 GB"), "WARN", ["fox", "close"]),
        (Memory(4 * GB, GB // 2, GB // 2), "FAIL", ["no model fits", "close programs"]),
        (Memory(64 * GB, 60 * GB, GB), "WARN", ["container", "docker run --memory"]),
        (Memory(16 * GB, 9 * GB, 9 * GB, 8 * GB, 6 * GB), "WARN", ["short of memory"]),
        (Memory(16 * GB, 9 * GB, 9 * GB, 8 * GB, GB), "OK", ["1.0 of 8.0 GB are used"]),
    ],
)
def test_memory(facts: Memory, status: str, words: list[str]) -> None:
    only(memory.judge(facts), status, *words)


@pytest.mark.parametrize(
    "facts, status, words",
    [
        (Installed(BUILT, (), "llama-cpp-python==0.3.36"), "OK", ["CPU; they see no GPU"]),
        (Installed(BUILT, (), "llama-cpp-python==0.4.0"), "WARN", ["made for 0.4.0", REBUILD]),
        (
            Installed(BUILT, ("rich>=15",)),
            "FAIL",
            ["not installed: rich>=15", 'pip install "rich>=15"'],
        ),
        (Installed(Cause("SIGILL")), "FAIL", ["cannot run here: SIGILL", REBUILD]),
        (Installed(Cause("no libgomp", "apt install libgomp1")), "FAIL", ["apt install libgomp1"]),
    ],
)
def test_llama_cpp(facts: Installed, status: str, words: list[str]) -> None:
    found = only(library.judge(facts, REBUILD), status, *words)
    if "libgomp" in found.found:
        assert not found.command, "building it again would not help"


def test_packages_are_told_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["rich>=15,<16", "no-such-thing>=1", "pytest; extra == 'dev'"]
    monkeypatch.setattr(build, "requirements", lambda: needed)
    found = library.gather()
    assert found.missing == ("no-such-thing>=1",) and list(found.versions) == ["rich"]
    first = next(library.judge(dataclasses.replace(found, missing=()), REBUILD))
    assert first.found == f"rich {found.versions['rich']}"


CUDA = Target("cuda", ("86",))
COMPILED = {"CPU": {"AVX2": "1"}}


def test_a_gpu_that_is_used_is_shown_with_driver_and_capability() -> None:
    devices = [Device("CUDA0", "NVIDIA GeForce RTX 3050", 3 << 30, 4 << 30, "gpu", "CUDA")]
    facts = Facts(["CUDA", "CPU"], devices, (Adapter("NVIDIA"),), NVIDIA)
    found = only(gpus.judge(facts, CUDA, {"CUDA": {"ARCHS": "750,860"}}), "OK")
    assert found.found == (
        "RTX 3050: driver 550.54 (CUDA 12.4), compute capability 8.6, 3.0/4.0 GiB free"
    )
    built = gpus.judge(facts, CUDA, {"CUDA": {"ARCHS": "890,1200"}})
    only(built, "FAIL", "built for 8.9 and newer", "CMAKE_CUDA_ARCHITECTURES=86 ")


@pytest.mark.parametrize(
    "facts, best, words",
    [
        (Facts(["CPU"], nvidia=NVIDIA), CUDA, ["without CUDA", "-DCMAKE_CUDA_ARCHITECTURES=86"]),
        (Facts(["CPU"], adapters=[Adapter("AMD")]), Target("vulkan"), ["ROCm", "-DGGML_VULKAN=ON"]),
        (Facts(["CPU"], adapters=[Adapter("AMD")]), CUDA, ["ROCm", "-DGGML_HIP=ON"]),
        (Facts(["CPU"], adapters=[Adapter("Intel")]), CUDA, ["-DGGML_VULKAN=ON"]),
        (Facts(["CPU"], adapters=[Adapter("Apple")]), Target("metal"), ["Metal", "GGML_METAL=ON"]),
        (
            Facts(["CUDA"], nvidia=NVIDIA, environment={"CUDA_VISIBLE_DEVICES": ""}),
            CUDA,
            ["unset CUDA_VISIBLE_DEVICES"],
        ),
        (
            Facts(["CUDA"], adapters=[Adapter("NVIDIA")], nvidia=Nvidia(trouble="library")),
            CUDA,
            ["NVIDIA's driver is not installed"],
        ),
    ],
)
def test_a_gpu_that_is_not_used_comes_with_the_way_to_use_it(
    facts: Facts, best: Target, words: list[str]
) -> None:
    only(gpus.judge(facts, best, COMPILED), "WARN", *words)


def test_gpus_that_are_no_loss() -> None:
    beside = Facts(["CPU"], adapters=[Adapter("Intel", "0000:00:02.0", "i915", True)])
    only(gpus.judge(beside, Target("cpu"), COMPILED), "OK", "without Vulkan")
    only(gpus.judge(Facts(["CPU"]), Target("cpu"), COMPILED), "OK", "none")
    # Nobody knows what an llama.cpp that does not load was built for.
    only(gpus.judge(Facts(nvidia=NVIDIA), CUDA, None), "OK", "RTX 3050")


@pytest.mark.parametrize(
    "facts, found, wanted",
    [
        (Facts(nvidia=NVIDIA), Tools(), CUDA),
        (Facts(adapters=[Adapter("NVIDIA")]), Tools(), Target("cuda")),
        (Facts(adapters=[Adapter("Apple", integrated=True)]), Tools(), Target("metal")),
        (
            Facts(adapters=[Adapter("AMD")]),
            Tools(rocm=True, gfx=("gfx1100",)),
            Target("rocm", ("gfx1100",)),
        ),
        (Facts(adapters=[Adapter("AMD")]), Tools(gfx=("gfx1100",)), Target("vulkan")),
        (Facts(adapters=[Adapter("Intel", integrated=True)]), Tools(), Target("cpu")),
        (Facts(), Tools(), Target("cpu")),
    ],
)
def test_what_a_machine_builds_for(facts: Facts, found: Tools, wanted: Target) -> None:
    assert gpus.target(facts, found) == wanted


@pytest.mark.parametrize(
    "found, target, driver, status, words",
    [
        (Tools(True, (12, 4)), CUDA, "12.4", "OK", ["CUDA toolkit 12.4 builds"]),
        (Tools(True, (12, 8)), CUDA, "12.4", "OK", ["12.8"]),  # the same major version runs
        (Tools(True, None), CUDA, "12.4", "WARN", ["nvcc", "toolkit 12.x"]),
        (Tools(True, (13, 0)), CUDA, "12.4", "WARN", ["newer than the driver", "toolkit 12.x"]),
        (Tools(True, (13, 0)), Target("cuda", ("61",)), "13.0", "WARN", ["below 7.5", "12.x"]),
        (Tools(True, (12, 4)), Target("cuda", ("120",)), "13.0", "WARN", ["too old", "12.8"]),
        (Tools(False, (12, 4)), CUDA, "12.4", "WARN", ["C++", "apt install build-essential"]),
        (Tools(True), Target("vulkan"), "", "WARN", ["glslc"]),
    ],
)
def test_what_it_is_built_with(
    found: Tools, target: Target, driver: str, status: str, words: list[str]
) -> None:
    only(tools.judge(found, target, driver, "linux"), status, *words)


def test_rocms_names_of_gpus(tmp_path: Path) -> None:
    for number, version in enumerate((0, 110000, 90402, 90010)):
        node = tmp_path / str(number) / "properties"
        node.parent.mkdir()
        node.write_text(f"cpu_cores_count 0\ngfx_target_version {version}\n", encoding="ascii")
    assert sorted(tools._gfx(tmp_path)) == ["gfx1100", "gfx90a", "gfx942"]


GOOD = Reach("ModelScope", "ms.test", "MODELSCOPE_ENDPOINT", 0.4)
BAD = Reach("Hugging Face", "hf.test", "HF_ENDPOINT", trouble="hf.test does not answer")


def test_hubs() -> None:
    assert told(hubs.judge(None)) == [("hubs", "OK")]
    assert told(hubs.judge([GOOD, GOOD])) == [("hub", "OK")] * 2
    only(hubs.judge([GOOD, BAD]), "WARN", "ModelScope is taken", "HF_ENDPOINT")
    only(hubs.judge([BAD]), "WARN", "--offline")


def test_hubs_are_asked_through_their_clients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with loopback.serving() as site, loopback.environment(monkeypatch, tmp_path, site.url):
        site.add("Qwen/Qwen2.5-0.5B-Instruct", {"config.json": b"{}"})
        found = hubs.gather()
        assert found and told(hubs.judge(found)) == [("hub", "OK")] * 2
        assert site.state.asked("Qwen2.5-0.5B-Instruct")
        # An answer that is not the listing does not count: an empty mirror, a hotel's login page.
        site.state.repos.clear()
        assert told(hubs.judge(hubs.gather())) == [("hub", "WARN")] * 2
        site.state.listing = b"<html>please log in</html>"
        assert told(hubs.judge(hubs.gather())) == [("hub", "WARN")] * 2
        monkeypatch.setenv("PORTABLE_OFFLINE", "1")
        assert hubs.gather() is None


def test_a_hub_that_never_finishes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hubs, "SECONDS", 0.3)
    monkeypatch.setattr("portable.hub.Hub.listing", lambda *_: __import__("time").sleep(1))
    with loopback.serving() as site, loopback.environment(monkeypatch, tmp_path, site.url):
        found = hubs.gather()
    assert found and all("does not finish" in reach.trouble for reach in found)


@pytest.mark.parametrize(
    "facts, status, words",
    [
        (Disk("/m", 50 * GB, system="ext4"), "OK", ["50.0 GB free (ext4)"]),
        (Disk("/m", 5 * GB), "WARN", ["portable rm", "PORTABLE_HOME"]),
        (Disk("/m", GB // 2), "FAIL", ["no model fits", "PORTABLE_HOME"]),
        (Disk("/m", 50 * GB, "Read-only file system"), "FAIL", ["Read-only", "PORTABLE_HOME"]),
        (Disk("/m", 50 * GB, system="nfs4"), "WARN", ["over the network (nfs4)"]),
        (Disk("/m", 50 * GB, system="tmpfs"), "WARN", ["gone after a restart"]),
    ],
)
def test_disk(facts: Disk, status: str, words: list[str]) -> None:
    only(disk.judge(facts, "linux"), status, *words)


def test_a_folder_is_asked_by_writing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "not" / "yet"))
    found = disk.gather()
    assert not found.refused and found.free > 0 and list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "file" / "home"))
    assert disk.gather().refused


PROXY = {"http": "http://proxy.test:3128"}


@pytest.mark.parametrize(
    "facts, status, words",
    [
        (Network(), "OK", ["8000 is free"]),
        (Network(is_port_free=False), "WARN", ["taken", "--port"]),
        (Network(proxies=PROXY), "OK", ["http_proxy"]),
        (Network(proxies=PROXY, bypassed=False), "WARN", ["export no_proxy=localhost"]),
        (Network(proxies={"https": "http://p"}, bypassed=False), "OK", ["https_proxy"]),
        (Network(proxies={"all": "socks5://p"}, socks=False), "WARN", ["pysocks socksio"]),
    ],
)
def test_network(facts: Network, status: str, words: list[str]) -> None:
    only(network.judge(facts, "linux"), status, *words)


def test_proxies_are_read_as_clients_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not network.gather().proxies
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    assert not network.gather().bypassed
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert network.gather().bypassed


@pytest.mark.parametrize(
    "facts, status, words",
    [
        (Power(), "OK", ["no battery"]),
        (Power(80.0, True), "OK", ["on mains"]),
        (Power(41.0, False), "WARN", ["on battery (41 %)", "--eco"]),
    ],
)
def test_power(facts: Power, status: str, words: list[str]) -> None:
    only(power.judge(facts), status, *words)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that BUILT uses all of."""
    monkeypatch.setattr(cpu, "gather", lambda: Cpu(chip("AVX2"), FOUR, 4, 4))


@pytest.mark.usefixtures("plain")
def test_what_is_needed_to_build_is_told_only_when_it_has_to_be_built() -> None:
    found = conclude(Installed(Cause("it broke")), Facts(nvidia=NVIDIA), Tools(True), lambda: None)
    assert found.failed and found.backend == "cuda"
    assert [f.name for f in found.findings if f.command == found.build] == ["llama.cpp"]
    assert found.findings[-1].name == "cuda", "the toolkit is missing"
    assert "cu124" in found.wheel
    good = conclude(Installed(BUILT), Facts(["CPU"]), Tools(), lambda: None)
    assert not {"compiler", "cuda"} & {f.name for f in good.findings}


@pytest.mark.usefixtures("plain")
def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise RuntimeError("two\nlines; rm -rf")

    monkeypatch.setattr(power, "gather", breaks)
    found = conclude(Installed(BUILT), Facts(), Tools(), lambda: None)
    assert found.findings[-1].found.startswith("cannot be looked at: RuntimeError: two\\nlines")
    assert all(line.startswith("# ") for line in script(found).splitlines())


def test_a_command_stays_in_one_line_and_the_rest_is_wrapped() -> None:
    found = Finding("gpu", "WARN", "word " * 30, "do this", "a command " * 20)
    shown = lines(found, 60)
    assert all(len(line) <= 60 for line in shown[:-1]) and len(shown) > 4
    assert shown[-1].endswith("$ " + found.command)
    assert len(lines(found, 0)) == 3


def test_the_script_has_only_commands_and_comments() -> None:
    found = conclude(Installed(Cause("it broke")), Facts(), Tools(True), lambda: [BAD])
    said = [line for line in script(found).splitlines() if not line.startswith("# ")]
    assert found.build in said and all(line for line in said)
    assert script(Report([], "cpu", "", "")) == "# nothing is wrong"


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "portable.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )


def test_this_machine_has_no_failure() -> None:
    done = doctor("doctor", "--offline", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0 and not done.stderr
    assert {"system", "processor", "memory", "llama.cpp", "gpu", "disk", "port", "power"} <= {
        finding["name"] for finding in said["findings"]
    }
    assert "CMAKE_ARGS=" in said["build"]


def test_it_works_where_nothing_else_does(tmp_path: Path) -> None:
    broken = {"LLAMA_CPP_LIB_PATH": str(tmp_path), "PORTABLE_HOME": os.devnull + "/home"}
    done = doctor("doctor", "--offline", LC_ALL="C", TERM="dumb", **broken)
    assert done.returncode == 1 and not done.stderr
    assert "FAIL llama.cpp      cannot run here: libllama is not where it should be" in done.stdout
    assert "FAIL disk" in done.stdout and "\x1b" not in done.stdout
    assert "To build llama.cpp for this machine" in done.stdout
    assert doctor("devices", **broken).returncode == 70


def test_devices_end_with_the_host() -> None:
    done = doctor("devices", "--json")
    *_, host = json.loads(done.stdout)
    assert host["name"] == host["backend"] == "CPU" and host["kind"] == "cpu"
    assert 0 < host["free"] <= host["total"]
    with worker("--port", "0", "--memory", "2GB") as lent:
        endpoint = lent.endpoint
        shown = doctor("devices", "--rpc", endpoint).stdout.splitlines()
    assert [line.split()[:2] for line in shown] == [["RPC0", "rpc"], ["CPU", "cpu"]]
    assert endpoint in shown[0]


def test_a_reader_that_left_is_no_failure() -> None:
    command = [sys.executable, "-P", "-m", "portable.cli", "doctor", "--offline"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
