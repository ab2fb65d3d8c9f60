"""Converts damaged checkpoints one after another and says what came of each; run as a program.

    python mutation_worker.py ROOT SEED FIRST COUNT

Number n is damaged in the same way whenever it is run. Before each a line with its number is
printed, after it a line of JSON: so who reads knows which one ended the process.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import llama_cpp
from decode_once import numbers
from mutate import mutated
from mutation_cases import Case, build

from convert import Converted, Options, convert, convert_adapter
from portable.engine.adapter import check_adapter
from portable.engine.config import EngineConfig
from portable.engine.llama import Llama
from portable.engine.sequence import SamplingParams, Sequence, Slice
from portable.errors import PortableError

MEMORY = 1 << 30  # above what the process has when it begins
SECONDS = 60
LONGEST = 1100
DECODE_EACH = 8


# What may stand where a file should.
INSTEAD: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("absent"),
}


class Endless(BaseException):
    """A conversion that does not come to its end."""


def damaged(case: Case, number: int, seed: int, target: Path) -> str:
    """A copy of the case with one file damaged; what was done to which."""
    rng = Random(f"{seed}-{number}")
    chosen = rng.choice(case.files)
    for path in case.files:
        copy = target / path.relative_to(case.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path != chosen:
            os.link(path, copy)
    path = target / chosen.relative_to(case.folder)
    if rng.random() < 0.04:
        how = rng.choice(list(INSTEAD))
        INSTEAD[how](path)
    else:
        how, data = mutated(chosen.read_bytes(), chosen.name, rng)
        path.write_bytes(data)
    return f"{case.folder.name}/{chosen.name} {how}"


def make(case: Case, folder: Path, output: Path) -> Converted | None:
    if case.kind == "running":
        assert case.base
        return run(case.base, folder / "adapter.gguf")
    if case.kind == "adapter":
        assert case.base
        return convert_adapter(folder, case.base, output, Options(quant=case.quant, threads=1))
    if case.kind == "merge":
        assert case.base
        return convert(case.base, output, Options(quant=case.quant, threads=1), adapter=folder)
    if case.kind == "matrix":
        assert case.base
        imatrix = folder / "imatrix.gguf"
        options = Options(quant=case.quant, threads=1, imatrix=imatrix)
        return convert(case.base, output, options)
    return convert(folder, output, Options(quant=case.quant, threads=1, name="org/Name-1B"))


def run(model: Path, adapter: Path) -> None:
    config = EngineConfig(model, context=64, slots=1, threads=1, adapter=adapter)
    with closing(Llama(config)) as llama:
        llama.decode([Slice(Sequence("", [1, 2, 3], SamplingParams(), slot=0), 0, 3)])


def outcome(case: Case, folder: Path, output: Path) -> dict[str, Any]:
    """What came of it, and under "bad" what must not have."""
    try:
        done = make(case, folder, output)
    except PortableError as error:
        text, bad = str(error), []
        if not text.isprintable() or len(error.message) > LONGEST:
            bad.append("a message that is not one short line")
        if error.exit_code not in (2, 3, 5):
            bad.append(f"exit code {error.exit_code}")
        if not error.hint:
            bad.append("no hint")
        return {"result": type(error).__name__, "text": text, "bad": bad}
    except (Exception, Endless):
        return {"result": "traceback", "bad": [traceback.format_exc()]}
    return {"result": "converted" if done else "ran", "bad": []}


def loads(case: Case, output: Path, decode: bool) -> list[str]:
    """llama.cpp's own opinion. An abort ends this process, which is seen from outside."""
    if case.kind == "adapter":
        assert case.base
        try:
            check_adapter(output, case.base.with_suffix(".gguf"), 0)
        except PortableError as error:
            return [str(error)]
        return []
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(output), params)
    if not model:
        return ["llama.cpp does not load its vocabulary"]
    llama_cpp.llama_model_free(model)
    if decode:
        try:
            numbers(str(output))
        except AssertionError as error:
            return [f"llama.cpp: {error}"]
    return []


def stop(*_: object) -> None:
    raise Endless


def limit_memory() -> None:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    has = int(status.partition("VmSize:")[2].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))


def main(root: Path, seed: int, first: int, count: int) -> None:
    cases = build(root)
    signal.signal(signal.SIGALRM, stop)
    limit_memory()
    for number in range(first, first + count):
        print(number, flush=True)
        case = cases[number % len(cases)]
        place = root / f"work-{first}"
        folder, output = place / "in", place / "out" / "made.gguf"
        shutil.rmtree(place, ignore_errors=True)  # of a run that ended
        output.parent.mkdir(parents=True)
        what = damaged(case, number, seed, folder)
        signal.alarm(SECONDS)
        began = time.process_time()
        found = outcome(case, folder, output)
        signal.alarm(0)
        found |= {"what": what, "seconds": round(time.process_time() - began, 3)}
        left = [p.name for p in output.parent.iterdir()]
        if left != ([output.name] if found["result"] == "converted" else []):
            found["bad"].append(f"left over: {left}")
        if found["result"] == "converted":
            found["bad"] += loads(case, output, number % DECODE_EACH == 0)
        shutil.rmtree(place)
        print(json.dumps(found), flush=True)
    # Not ru_maxrss, which begins with what the process had that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print("peak", int(status.split("VmHWM:")[1].split()[0]) << 10, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
