"""The tiny checkpoints, adapters and importance matrices that the mutation tests damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from adapters import LINEAR, lora
from checkpoints import tiny
from ggufs import Gguf
from tiny_tokenizers import write_json

from convert import Options, convert, convert_adapter
from convert.imatrix import Entry, Imatrix, write_imatrix

CARD = (
    "---\nlicense: apache-2.0\ntags: [chat]\nbase_model: org/Base-7B\nlanguage:\n- en\n---\n# Hi\n"
)
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "sharded": ("qwen2", {"shards": 3}, "Q4_K_M"),
    "llama": ("llama", {}, "Q8_0"),
    "sentencepiece": ("mistral", {"spm": True}, "Q4_0"),
    "wordpiece": ("bert", {}, "F16"),
    "unigram": ("xlm_roberta", {}, "F16"),
    "gemma": ("gemma3", {}, "BF16"),
    "experts": ("qwen3_moe", {}, "Q5_K_S"),
    "reranker": ("qwen3_reranker", {}, "F32"),
    "latent": ("deepseek_v3", {}, "Q6_K"),
    "phi": ("phi3", {}, "F32"),
}


class Case(NamedTuple):
    """`folder` holds what is damaged; `base` is given where that is no checkpoint.

    A "running" case converts nothing: it is an adapter that a model is to run with.
    """

    kind: str
    folder: Path
    quant: str
    base: Path | None = None

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def build(root: Path) -> list[Case]:
    """Makes whatever is not there yet; the same files each time."""
    cases = []
    for name, (family, options, quant) in FAMILIES.items():
        folder = root / name
        if not folder.exists():
            tiny(folder, family, **options)
            (folder / "README.md").write_text(CARD)
        cases.append(Case("model", folder, quant))
    base = root / "llama"
    if not (root / "adapter").exists():
        lora(root / "adapter", base, LINEAR, rank_pattern={"q_proj": 4}, use_rslora=True)
        write_json(root / "adapter" / "args.json", {"model": "org/name"})
        lora(root / "dora", base, LINEAR, use_dora=True, dtype="BF16")
        matrix(base, root / "matrix")
        (root / "running").mkdir()
        convert(base, root / "llama.gguf", Options(quant="F32"))
        convert_adapter(root / "adapter", base, root / "running" / "adapter.gguf")
    return [
        *cases,
        Case("adapter", root / "adapter", "F16", base),
        Case("merge", root / "dora", "Q8_0", base),
        Case("matrix", root / "matrix", "IQ4_NL", base),
        Case("running", root / "running", "", root / "llama.gguf"),
    ]


def matrix(base: Path, folder: Path) -> None:
    folder.mkdir()
    model = convert(base, folder / "model.gguf", Options(quant="F32")).path
    entries = {
        name: Entry(np.arange(1, tensor.shape[0] + 1, dtype=np.float32), np.ones(1, np.float32))
        for name, tensor in Gguf(model).tensors.items()
        if name.startswith("blk.") and len(tensor.shape) == 2
    }
    model.unlink()
    write_imatrix(Imatrix(entries, ("text",), 2, 512), folder / "imatrix.gguf")
