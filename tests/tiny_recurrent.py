"""Tiny models with a recurrent memory, which the converter does not know: Mamba, and LFM2 (hybrid).

Written by llama.cpp's own `gguf` package; random weights, the same in every run.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, VOCABULARY = 64, 4, 300
INNER, STATE, RANK, KERNEL = 2 * WIDTH, 16, 4, 4  # Mamba
HEADS, KV_HEADS, FEED, CACHE = 4, 2, 96, 3  # LFM2
Shapes = dict[str, tuple[int, ...]]


def mamba(path: Path) -> Path:
    """Every layer keeps a state of one size, however long the text is."""
    layer: Shapes = {
        "attn_norm.weight": (WIDTH,),
        "ssm_in.weight": (2 * INNER, WIDTH),
        "ssm_conv1d.weight": (INNER, KERNEL),
        "ssm_conv1d.bias": (INNER,),
        "ssm_x.weight": (RANK + 2 * STATE, INNER),
        "ssm_dt.weight": (INNER, RANK),
        "ssm_dt.bias": (INNER,),
        "ssm_a": (INNER, STATE),
        "ssm_d": (INNER,),
        "ssm_out.weight": (WIDTH, INNER),
    }
    writer = _writer(path, "mamba")
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    return _write(writer, path, [layer] * LAYERS, {"output_norm.weight": (WIDTH,)})


def lfm2(path: Path) -> Path:
    """Every other layer is a short convolution, which keeps a state; the others attend."""
    size = WIDTH // HEADS
    feed: Shapes = {
        "attn_norm.weight": (WIDTH,),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (FEED, WIDTH),
        "ffn_up.weight": (FEED, WIDTH),
        "ffn_down.weight": (WIDTH, FEED),
    }
    convolution: Shapes = {
        "shortconv.conv.weight": (WIDTH, CACHE),
        "shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
        "shortconv.out_proj.weight": (WIDTH, WIDTH),
    }
    attention: Shapes = {
        "attn_q_norm.weight": (size,),
        "attn_k_norm.weight": (size,),
        "attn_q.weight": (WIDTH, WIDTH),
        "attn_k.weight": (KV_HEADS * size, WIDTH),
        "attn_v.weight": (KV_HEADS * size, WIDTH),
        "attn_output.weight": (WIDTH, WIDTH),
    }
    writer = _writer(path, "lfm2")
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([0, KV_HEADS] * (LAYERS // 2))
    writer.add_rope_freq_base(10000.0)
    writer.add_shortconv_l_cache(CACHE)
    layers = [feed | convolution, feed | attention] * (LAYERS // 2)
    return _write(writer, path, layers, {"token_embd_norm.weight": (WIDTH,)})


def _writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"Tiny {architecture}")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    words = [f"w{n}" for n in range(VOCABULARY - 259)]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*special, *bytes_, *words])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
        + [kinds.BYTE] * 256
        + [kinds.NORMAL] * len(words)
    )
    writer.add_eos_token_id(2)
    return writer


def _write(writer: gguf.GGUFWriter, path: Path, layers: list[Shapes], ends: Shapes) -> Path:
    draw = np.random.default_rng(0)
    shapes = {
        f"blk.{n}.{name}": shape for n, layer in enumerate(layers) for name, shape in layer.items()
    }
    for name, shape in ({"token_embd.weight": (VOCABULARY, WIDTH)} | shapes | ends).items():
        values = draw.normal(0, 0.3, shape).astype(np.float32)
        if "norm" in name:
            values = 1 + values / 4
        if name.endswith("ssm_a"):
            values = -np.abs(values) / 50  # a state decays, but slowly
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
