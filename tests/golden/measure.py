"""Runs llama-imatrix and llama-perplexity on the tiny models and keeps what they say.

Not run by the tests: the tools are built from vendor/llama.cpp of the llama-cpp-python source
archive that pyproject.toml pins (cmake --build ... --target llama-imatrix llama-perplexity).

    PYTHONPATH=. python tests/golden/measure.py FOLDER_OF_THE_TOOLS
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from measure_cases import CHUNKS, CONTEXT, FAMILIES, TEXT, models  # noqa: E402

COMMON = ("-c", CONTEXT, "-b", CONTEXT, "-fa", "off", "--chunks", CHUNKS, "-f", "text.txt")
FIGURES = {
    "perplexity": r"Mean PPL\(Q\)\s*:\s*(\S+) ±\s*(\S+)",
    "base_perplexity": r"Mean PPL\(base\)\s*:\s*(\S+) ±\s*(\S+)",
    "perplexity_ratio": r"Mean PPL\(Q\)/PPL\(base\)\s*:\s*(\S+) ±\s*(\S+)",
    "mean": r"Mean\s+KLD:\s*(\S+) ±\s*(\S+)",
    "median": r"Median\s+KLD:\s*(\S+)",
    "percentile_99": r"99.0%\s+KLD:\s*(\S+)",
    "maximum": r"Maximum KLD:\s*(\S+)",
    "same_top": r"Same top p:\s*(\S+) ±\s*(\S+) %",
}


def run(folder: Path, tool: Path, *arguments: object) -> str:
    command = [str(tool), *map(str, (*COMMON, *arguments))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def main(tools: Path) -> None:
    figures = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "text.txt").write_text(TEXT, encoding="utf-8")
            base, model = models(folder, family)
            matrix = HERE / f"{family}-imatrix.bin"
            run(folder, tools / "llama-imatrix", "-m", base, "-o", matrix, "--no-ppl")
            logits = "--kl-divergence-base", "logits"
            run(folder, tools / "llama-perplexity", "-m", base, *logits)
            said = ""
            while "Same top p" not in said:  # now and then its log thread loses the end
                said = run(
                    folder, tools / "llama-perplexity", "-m", model, "--kl-divergence", *logits
                )
        figures[family] = {
            key: [float(number) for number in re.search(pattern, said).groups()]
            for key, pattern in FIGURES.items()
        }
    text = json.dumps(figures, indent=1) + "\n"
    (HERE / "perplexity.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
