"""Runs llama.cpp's own converter and quantizer on the test checkpoints and keeps what they say.

Not a part of the project and not run by its tests: torch lives in an environment of its own.

    python -m venv peer && peer/bin/pip install torch==2.13.0 transformers==4.57.6 sentencepiece
    PYTHONPATH=. python tests/golden/make.py LLAMA_CPP PEER_PYTHON [NAME ...]

LLAMA_CPP is vendor/llama.cpp of the llama-cpp-python source archive that pyproject.toml pins. Run
it with the project's own Python, whose llama_cpp quantizes; with NAMEs, for these tiny checkpoints
alone. Each checkpoint is built by tests/checkpoints.py; the converter writes --outtype f32
(lossless), f16 or bf16; Q4_K_M and Q8_0 are llama_model_quantize's of the f32 file; adapters go
through convert_lora_to_gguf. Three things are patched: the converter knows a pre-tokenizer by a
hash of its vocabulary, so it is told the name for the tiny vocabularies; its module for Baichuan
calls itself forever on all but one tensor; that for StableLM drops the stacked norms of the 12B.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import llama_cpp  # noqa: E402
from adapters import ADAPTERS, lora  # noqa: E402
from checkpoints import minilm, smollm2, tiny  # noqa: E402
from ggufs import summary  # noqa: E402
from golden_cases import TINY  # noqa: E402

RUN = """
import sys, runpy
sys.path.insert(0, {root!r}); sys.path.insert(1, {root!r} + "/gguf-py")
import conversion.base as base
pre = {pre!r}
if pre:
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
import conversion.baichuan as baichuan
packed = baichuan.BaichuanModel.modify_tensors
baichuan.BaichuanModel.modify_tensors = lambda self, data, name, bid: (
    packed if "W_pack" in name else base.TextModel.modify_tensors
)(self, data, name, bid)
import conversion.stablelm as stablelm
unfinished = stablelm.StableLMModel.modify_tensors
def finished(*arguments):
    yield from (yield from unfinished(*arguments)) or ()
stablelm.StableLMModel.modify_tensors = finished
sys.argv = ["convert_hf_to_gguf.py", *{arguments!r}]
runpy.run_path({root!r} + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def convert(llama: Path, python: str, folder: Path, outtype: str, pre: str) -> Path:
    out = folder.parent / f"{folder.name}.{outtype}.gguf"
    arguments = ["--outtype", outtype, "--outfile", str(out), str(folder)]
    code = RUN.format(root=str(llama), pre=pre, arguments=arguments)
    subprocess.run([python, "-c", code], check=True)
    return out


def convert_lora(llama: Path, python: str, folder: Path, base: Path) -> Path:
    out = folder.parent / f"{folder.name}.gguf"
    script = str(llama / "convert_lora_to_gguf.py")
    arguments = ["--base", str(base), "--outfile", str(out), str(folder)]
    subprocess.run([python, script, *arguments], check=True, stderr=subprocess.DEVNULL)
    return out


def quantize(source: Path, ftype: int) -> Path:
    out = source.with_suffix(f".{ftype}.gguf")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = ftype
    assert not llama_cpp.llama_model_quantize(
        str(source).encode(), str(out).encode(), ctypes.byref(params)
    )
    return out


def keep(name: str, path: Path) -> None:
    text = json.dumps(summary(path), ensure_ascii=False, indent=0)
    (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(name, path.stat().st_size)


def real(llama: Path, python: str, root: Path) -> None:
    smol = smollm2(root / "SmolLM2-135M-Instruct")
    mini = Path(shutil.copytree(minilm(), root / "all-MiniLM-L6-v2"))
    for name, checkpoint in (("smollm2", smol), ("minilm", mini)):
        lossless = convert(llama, python, checkpoint, "f32", "")
        for quant, ftype in (("Q4_K_M", 15), ("Q8_0", 7)):
            keep(f"{name}-{quant}", quantize(lossless, ftype))
        keep(f"{name}-F16", convert(llama, python, checkpoint, "f16", ""))


def adapters(llama: Path, python: str, root: Path) -> None:
    for name, (base, targets, settings) in ADAPTERS.items():
        family, _, options = TINY[base]
        checkpoint = tiny(root / f"base-of-{name}", family, **options)
        adapter = lora(root / f"Tiny-{name}-lora", checkpoint, targets, **settings)
        keep(f"lora-{name}", convert_lora(llama, python, adapter, checkpoint))


def main() -> None:
    llama, python, names = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if not names:
            real(llama, python, root)
            adapters(llama, python, root)
        for name in names or TINY:
            family, pre, options = TINY[name]
            checkpoint = tiny(root / f"Tiny-{name}-1M-Instruct", family, **options)
            for outtype in ("f32", "bf16"):
                path = convert(llama, python, checkpoint, outtype, pre)
                keep(f"tiny-{name}-{outtype.upper()}", path)


if __name__ == "__main__":
    main()
