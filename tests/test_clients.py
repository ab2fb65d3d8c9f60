"""Real clients of other makers against a real server, each in an environment of its own.

They want packages that clash with ours and are heavy to fetch (ms-swift: torch), and Node: `make
clients`. Environments are kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import filelock
import platformdirs
import pytest
from serving import Server, running

CLIENTS = Path(__file__).parent / "clients"
KEPT = platformdirs.user_cache_path("portable-test-clients")
KEY = "secret"
HEAVY = [pytest.mark.clients, pytest.mark.timeout(3600)]
EVERY = "chat stream tools structured embeddings errors"
# What each script prints, a line for each thing that held.
JAVASCRIPT = {
    "openai_js.mjs": "models chat stream tools structured responses embeddings errors",
    "vercel_ai.mjs": EVERY,
}
PYTHON = {
    "instructor_client.py": "tool_call json_schema_mode tools_strict stream async errors",
    "langchain_client.py": "chat tools structured chat tools structured embeddings errors",
    "litellm_client.py": "chat tools structured errors chat tools structured errors embeddings "
    "responses",
    "llama_index_client.py": EVERY.replace("tools", "completions tools"),
    "swift_client.py": "models chat several errors stream",
}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    """Answers that are compared whole and streamed must not differ by rounding."""
    with running({"deterministic": True}, api_keys=(KEY,), keep_alive_seconds=0.5) as made:
        yield made


def environment(wanted: str, *commands: list[str]) -> Path:
    """The folder named after what is wanted, made by these commands once, in it."""
    folder = KEPT / hashlib.sha256(f"{sys.version} {wanted}".encode()).hexdigest()[:16]
    KEPT.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(KEPT / f"{folder.name}.lock"):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "package.json").write_text(wanted, encoding="utf-8")
            for command in commands:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            (folder / "ready").touch()
    return folder


def node(name: str, at: Path) -> list[str]:
    """The command that runs a script; modules are looked for beside it."""
    program, npm = shutil.which("node"), shutil.which("npm")
    assert program and npm, "Node is missing: apt install nodejs npm"
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
    folder = environment(
        (CLIENTS / "package.json").read_text(encoding="utf-8"),
        [npm, "install", *flags],
    )
    (at / "node_modules").symlink_to(folder / "node_modules")
    return [program, str(shutil.copy(CLIENTS / name, at))]


def python(name: str) -> list[str]:
    """The command that runs a script with the packages that its head names (PEP 723)."""
    head = re.search(
        r"(?m)^# /// script\n((?:# .*\n)+?)# ///$", (CLIENTS / name).read_text("utf-8")
    )
    assert head
    packages = tomllib.loads(re.sub(r"(?m)^# ", "", head[1]))["dependencies"]
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--python", sys.executable, "venv"]
        install = [uv, "pip", "install", "--python", "venv/bin/python"]
    else:
        make = [sys.executable, "-m", "venv", "venv"]
        install = ["venv/bin/python", "-m", "pip", "install", "-q"]
    folder = environment(head[1], make, [*install, *packages])
    return [str(folder / "venv/bin/python"), "-P", "-X", "utf8", str(CLIENTS / name)]


def check(command: list[str], server: Server, held: str) -> None:
    done = subprocess.run(
        [*command, f"{server.url}/v1", KEY], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == held.split()


@pytest.mark.parametrize("name", [pytest.param(name, marks=HEAVY) for name in JAVASCRIPT])
def test_a_client_of_npm(keyed: Server, name: str, tmp_path: Path) -> None:
    check(node(name, tmp_path), keyed, JAVASCRIPT[name])


@pytest.mark.parametrize("name", [pytest.param(name, marks=HEAVY) for name in PYTHON])
def test_a_client_of_python(keyed: Server, name: str) -> None:
    check(python(name), keyed, PYTHON[name])


def test_every_script_is_run() -> None:
    scripts = {path.name for path in CLIENTS.iterdir() if path.suffix in (".py", ".mjs")}
    assert scripts == JAVASCRIPT.keys() | PYTHON.keys()
