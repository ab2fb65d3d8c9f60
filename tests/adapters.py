"""Builds LoRA adapters as PEFT saves them, with random matrices, for a checkpoint of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import DTYPES
from safetensors.numpy import load_file, save_file
from tiny_tokenizers import write_json

Shapes = dict[str, tuple[int, ...]]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Names and settings of the adapters that golden data exists for: base, targets, PEFT's settings.
ADAPTERS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "qwen2": ("qwen2", LINEAR, {}),
    "llama3": ("llama3", LINEAR, {"rank_pattern": {"q_proj": 4}, "dtype": "BF16"}),
    "qwen3": ("qwen3", ("q_proj", "v_proj"), {"r": 16, "lora_alpha": 8}),
    "mistral-head": ("mistral", ("o_proj", "lm_head"), {}),
    "mistral-embedding": ("mistral", ("embed_tokens", "q_proj"), {}),
    "bert": ("bert", ("query", "value"), {}),
    "phi3": ("phi3", ("qkv_proj", "gate_up_proj", "down_proj"), {}),
    "internlm2": ("internlm2", ("wqkv", "wo", "w1", "w2", "w3"), {}),
    "gemma3": ("gemma3", LINEAR, {}),
    "qwen3-moe": ("qwen3-moe", LINEAR, {"r": 4}),
}


def lora(folder: Path, base: Path, targets: tuple[str, ...], **settings: Any) -> Path:
    """An adapter of `base` for the layers whose names end in `targets`.

    `settings` are adapter_config.json's keys, and: seed, dtype, full (names of tensors to replace).
    """
    rng = np.random.default_rng(settings.pop("seed", 7))
    dtype = DTYPES[settings.pop("dtype", "F32")]
    full = settings.pop("full", ())
    config = peft_config(targets) | settings
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, shape in shapes(base).items():
        module, _, kind = name.rpartition(".")
        if name in full:
            arrays[f"base_model.model.{name}"] = random(rng, shape).astype(dtype)
        elif module.endswith(targets) and kind == "weight":
            pair = matrices(rng, module, shape, config)
            arrays |= {
                f"base_model.model.{key}": value.astype(dtype) for key, value in pair.items()
            }
    folder.mkdir(parents=True)
    write_json(folder / "adapter_config.json", config)
    save_file(arrays, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def peft_config(targets: tuple[str, ...]) -> dict[str, Any]:
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": "org/base",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 8,
        "rank_pattern": {},
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def shapes(base: Path) -> Shapes:
    found: Shapes = {}
    for path in sorted(base.glob("*.safetensors")):
        found |= {name: array.shape for name, array in load_file(path).items()}
    return {name.removeprefix("bert."): shape for name, shape in found.items()}


def matrices(
    rng: np.random.Generator, module: str, shape: tuple[int, ...], config: dict[str, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    rank = config["rank_pattern"].get(module.rpartition(".")[2], config["r"])
    rows, columns = shape
    if module.endswith("embed_tokens"):
        a, b = random(rng, (rank, rows)), random(rng, (columns, rank))
        return {f"{module}.lora_embedding_A": a, f"{module}.lora_embedding_B": b}
    a, b = random(rng, (rank, columns)), random(rng, (rows, rank))
    pair = {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    if config["use_dora"]:
        pair[f"{module}.lora_magnitude_vector"] = 1 + random(rng, (rows,))
    return pair


def random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape, np.float32) * np.float32(0.1)
