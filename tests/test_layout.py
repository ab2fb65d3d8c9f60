"""The arrows of the house: who may import whom, read from the source with `ast`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    p.relative_to(ROOT) for top in ("portable", "convert") for p in (ROOT / top).rglob("*.py")
)

# Layer of each module, by longest prefix: an import may go to the same package or to a lower layer.
LAYERS = {
    # Another way in, which takes the command line's flags.
    "portable.cluster": 7,
    "portable.cli": 6,
    "portable.flags": 5,
    "portable.bench": 5,
    "portable.chat": 5,
    "portable.doctor": 5,
    "portable.server": 5,
    "portable.worker": 5,
    "portable.dialects": 3,
    "portable.measure": 4,
    "portable.obtain": 4,
    "portable.facts": 4,
    "portable.shelf": 5,
    "portable.verify": 3,
    "portable.auto": 3,
    "portable.fit": 3,
    "portable.report": 3,
    "portable.hub": 2,
    "portable.store": 2,
    "portable.elsewhere": 2,
    "portable.catalogue": 2,
    "portable.progress": 1,
    "portable.folders": 1,
    "portable.gguf": 1,
    "portable.tensortype": 0,
    "portable.lfs": 1,
    "portable.engine": 2,
    "convert": 2,
    "portable.platforms": 0,
    "portable.errors": 0,
    "portable": 0,
}
NATIVE_DOORS = {"portable/engine/native.py", "convert/quantize.py"}
THROUGH_THE_DOOR = {
    "portable/engine/adapter.py",
    "portable/engine/batch.py",
    "portable/engine/embedding/pooled.py",
    "portable/engine/ggml.py",
    "portable/engine/inspection.py",
    "portable/engine/layout.py",
    "portable/engine/llama.py",
    "portable/engine/placement.py",
    "portable/engine/probe.py",
    "portable/engine/rpc/devices.py",
    "portable/engine/rpc/lost.py",
    "portable/engine/rpc/serve.py",
    "portable/engine/state.py",
    "portable/engine/timer.py",
    "portable/engine/vocabulary.py",
    "portable/engine/weights.py",
    "portable/measure/tensors.py",
}
HTTP = {"starlette", "uvicorn", "httpx2"}
HTTP_ROOMS = ("portable/server/", "portable/cluster/", "portable/bench")


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at any depth."""
    package = ".".join(path.with_suffix("").parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def layer(name: str) -> tuple[str, int]:
    prefix = max((k for k in LAYERS if name == k or name.startswith(k + ".")), key=len)
    return prefix, LAYERS[prefix]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_arrows_point_down(path: Path) -> None:
    room, own = layer(module_name(path))
    for name in imports(path):
        if name.split(".")[0] not in ("portable", "convert"):
            continue
        other, depth = layer(name)
        assert other == room or depth < own, f"{path} ({room}) imports {name} ({other})"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_llama_cpp_enters_by_two_doors(path: Path) -> None:
    if any(name.split(".")[0] == "llama_cpp" for name in imports(path)):
        assert path.as_posix() in NATIVE_DOORS
    if any(name.startswith("portable.engine.native") for name in imports(path)):
        assert path.as_posix() in THROUGH_THE_DOOR


@pytest.mark.parametrize("path", FILES, ids=str)
def test_http_stays_in_the_server(path: Path) -> None:
    if any(name.split(".")[0] in HTTP for name in imports(path)):
        assert path.as_posix().startswith(HTTP_ROOMS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_stay_small_and_say_what_they_are(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{path} is too long: split it"
    doc = ast.get_docstring(ast.parse(text))
    assert doc and doc.splitlines()[0].endswith((".", "*", ":")), f"{path} has no first line"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_bodies_stay_under_fifty_lines(path: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            assert length <= 50, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_no_import_cycles() -> None:
    graph = {module_name(p): imports(p) for p in FILES}
    edges = {
        name: {
            target
            for target in graph
            if target != name
            and any(
                i == target or (i not in graph and i.rpartition(".")[0] == target) for i in found
            )
        }
        for name, found in graph.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in edges[name]:
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_asks_for_torch_or_plain_jinja() -> None:
    for path in FILES:
        found = imports(path)
        assert not {n.split(".")[0] for n in found} & {"torch", "transformers", "pickle"}, path
        assert not found & {"jinja2.Environment", "jinja2.Template", "os.fork"}, path


def test_ray_stays_in_the_cluster() -> None:
    for path in FILES:
        found = {name.split(".")[0] for name in imports(path)}
        assert "ray" not in found or path.parts[:2] == ("portable", "cluster"), path
