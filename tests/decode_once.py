"""Decodes a text with a GGUF and prints how many numbers came out; run as a program.

llama.cpp ends its process on some files, so the tests that ask run it in one of its own.
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp
import numpy as np

TEXT = "Hello the world 12 in 我"


def numbers(path: str) -> np.ndarray:
    """The last token's logits, or the text's vector or score where the model embeds."""
    model = llama_cpp.llama_model_load_from_file(
        path.encode(), llama_cpp.llama_model_default_params()
    )
    assert model, "not loaded"
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 128
    params.embeddings = embeds = embedding(model)
    context = llama_cpp.llama_init_from_model(model, params)
    assert context, "no context"
    vocab = llama_cpp.llama_model_get_vocab(model)
    ids = (ctypes.c_int32 * 128)()
    count = llama_cpp.llama_tokenize(vocab, TEXT.encode(), len(TEXT.encode()), ids, 128, True, True)
    assert count > 0, "no tokens"
    failed = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, count))
    assert not failed, "not decoded"
    if not embeds:
        size = llama_cpp.llama_vocab_n_tokens(vocab)
        found = llama_cpp.llama_get_logits_ith(context, -1)
    elif llama_cpp.llama_pooling_type(context) == llama_cpp.LLAMA_POOLING_TYPE_RANK:
        size = llama_cpp.llama_model_n_cls_out(model)
        found = llama_cpp.llama_get_embeddings_seq(context, 0)
    else:
        size = llama_cpp.llama_model_n_embd(model)
        found = llama_cpp.llama_get_embeddings_seq(context, 0)
    assert found, "no numbers"
    copy = np.ctypeslib.as_array(found, (size,)).copy()
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return copy


def embedding(model: object) -> bool:
    """Whether the file says how a text's vectors become one."""
    name = ctypes.create_string_buffer(64)
    llama_cpp.llama_model_meta_val_str(model, b"general.architecture", name, 64)
    key = name.value + b".pooling_type"
    return llama_cpp.llama_model_meta_val_str(model, key, name, 64) > 0


if __name__ == "__main__":
    result = numbers(sys.argv[1])
    assert np.isfinite(result).all(), "NaN or infinity"
    assert result.std() > 0 or result.size == 1, "all the same"
    print(result.size)
