"""Tokenizers: a converted file splits text as the checkpoint's own tokenizer does."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import tokenizers
from checkpoints import minilm, smollm2, tiny
from ggufs import Gguf
from tiny_experts import EXPERTS
from tiny_families import TINY
from tiny_spm import STYLES
from tiny_tokenizers import LLAMA3_SPLIT, PROBE, QWEN_SPLIT

from convert import Options, convert
from convert.vocab.sentencepiece import adds_prefix
from convert.vocab.tokens import looks_special
from portable.errors import CheckpointError, PortableError, UnsupportedModel


def llama_ids(path: Path, text: str, special: bool = False) -> list[int]:
    """Token ids by llama.cpp, which loads only the vocabulary."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    nowhere = ctypes.c_void_p()  # other tests leave workers behind, of which none may be asked
    params.devices = ctypes.addressof(nowhere)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, path
    try:
        vocab = llama_cpp.llama_model_get_vocab(model)
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), special, True)
        return list(ids[:count])
    finally:
        llama_cpp.llama_model_free(model)


def own_ids(folder: Path, text: str, special: bool = False) -> list[int]:
    loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded.no_padding()
    loaded.no_truncation()
    return list(loaded.encode(text, add_special_tokens=special).ids)


def edit(folder: Path, name: str, change: Callable[[Any], None]) -> None:
    path = folder / name
    found = json.loads(path.read_text("utf-8"))
    change(found)
    path.write_text(json.dumps(found, ensure_ascii=False), "utf-8")


WITH_TOKENIZER_JSON = [
    family
    for family, decoder in TINY.items()
    if decoder.splitter not in STYLES or STYLES[decoder.splitter].tokenizer_json
] + list(EXPERTS)


@pytest.mark.parametrize("spm", [True, False], ids=["model", "json"])
@pytest.mark.parametrize("family", WITH_TOKENIZER_JSON)
def test_tiny_tokenizers_agree(family: str, spm: bool, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", family, spm=spm)
    path = convert(folder, tmp_path / "out.gguf").path
    # Emoji and Arabic are bytes here; every splitter has its own opinion of the digits and spaces.
    for text in (PROBE, "Hello  the\n\n  in 123", "<|im_start|>user\n中我<|im_end|>"):
        assert llama_ids(path, text) == own_ids(folder, text)


@pytest.mark.parametrize("with_model", [True, False])
def test_unigram_agrees(with_model: bool, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "xlm_roberta", spm=with_model)
    path = convert(folder, tmp_path / "out.gguf").path
    for text in (PROBE, "Hello  the\n\n  world in 123", "\u3000Ａ ﬁ 我中 好～", "", "  he</s> "):
        assert llama_ids(path, text, special=True) == own_ids(folder, text, special=True), text


@pytest.mark.parametrize("scheme", ["never", "first"])
def test_a_space_is_put_before_a_text_where_the_tokenizer_puts_one(
    scheme: str, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "model", "mistral")
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    edit(folder, "tokenizer.json", lambda it: it.update(normalizer=None, pre_tokenizer=meta))
    path = convert(folder, tmp_path / "out.gguf").path
    assert llama_ids(path, PROBE) == own_ids(folder, PROBE)


def test_smollm2_agrees(tmp_path: Path) -> None:
    folder = smollm2(tmp_path / "SmolLM2")
    path = convert(folder, tmp_path / "out.gguf", Options(quant="Q4_0")).path
    for text in (PROBE, "<|im_start|>user\nHi<|im_end|>\n", "    indented\t\ttabs   ", "a1b22c333"):
        assert llama_ids(path, text) == own_ids(folder, text)


def test_minilm_agrees_with_its_cls_and_sep(tmp_path: Path) -> None:
    path = convert(minilm(), tmp_path / "out.gguf", Options(quant="Q8_0")).path
    text = "Hello World, I've 12345 apples — 我想在工作 café naïve"
    assert llama_ids(path, text, special=True) == own_ids(minilm(), text, special=True)


def test_a_fine_tune_with_more_tokens_keeps_its_pre_tokenizer(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    more = [
        {"id": 282, "content": "<tool_call>", **flags, "special": False},
        {"id": 283, "content": "<|mine|>", **flags, "special": True},
    ]
    edit(folder, "tokenizer.json", lambda found: found["added_tokens"].extend(more))
    keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
    assert keys["tokenizer.ggml.pre"][1] == b"qwen2"
    assert keys["tokenizer.ggml.token_type"][1][1][282:284] == [4, 3]
    text = "a<tool_call>b<|mine|>"
    assert llama_ids(tmp_path / "out.gguf", text) == own_ids(folder, text)


def pre_of(tmp_path: Path, pre: Any, post: Any = None) -> str:
    folder = tiny(tmp_path / "model", "llama")
    edit(folder, "tokenizer.json", lambda found: found.update(pre_tokenizer=pre))
    if post:
        edit(folder, "tokenizer.json", lambda found: found.update(post_processor=post))
    keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
    return str(keys["tokenizer.ggml.pre"][1].decode())


SPELLED = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"


def split(regex: str, behavior: str = "Isolated") -> dict[str, Any]:
    found = {"behavior": behavior, "invert": behavior == "Removed"}
    step = {"type": "Split", "pattern": {"Regex": regex}, **found}
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [step, last]}


@pytest.mark.parametrize(
    ("pre", "name"),
    [
        (split(QWEN_SPLIT), "qwen2"),
        (split(LLAMA3_SPLIT), "llama-bpe"),
        (split(QWEN_SPLIT.replace(r"\r", "\r").replace(r"\n", "\n")), "qwen2"),
        (split(QWEN_SPLIT.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", SPELLED)), "qwen2"),
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "gpt-2"),
    ],
)
def test_pre_tokenizers_by_structure(tmp_path: Path, pre: Any, name: str) -> None:
    assert pre_of(tmp_path, pre) == name


@pytest.mark.parametrize(
    "pre",
    [
        *(None, split(r"\w+"), {"type": "Whitespace"}, split("")),
        *(split(QWEN_SPLIT, "Contiguous"), split(r" ?[^(\s|[.,!?…。，、।۔،])]+", "Removed")),
    ],
)
def test_an_unknown_splitter_is_refused(tmp_path: Path, pre: Any) -> None:
    with pytest.raises(UnsupportedModel, match="splits text"):
        pre_of(tmp_path, pre)


def test_deepseek_distills_of_qwen_keep_llama_cpps_name(tmp_path: Path) -> None:
    token = "<｜begin▁of▁sentence｜>"
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A"}}]
    post = {"type": "TemplateProcessing", "single": single, "pair": []}
    assert pre_of(tmp_path, split(QWEN_SPLIT), post) == "deepseek-r1-qwen"


def test_chat_template_comes_from_its_own_file_too(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    edit(folder, "tokenizer_config.json", lambda found: found.pop("chat_template"))
    (folder / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
    assert keys["tokenizer.chat_template"][1] == b"{{ messages }}"


def test_named_chat_templates_are_kept(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    folder = tiny(tmp_path / "model", "qwen2")
    edit(folder, "tokenizer_config.json", lambda found: found.update(chat_template=named))
    keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
    assert keys["tokenizer.chat_template"][1] == b"a"
    assert keys["tokenizer.chat_template.tool_use"][1] == b"b"


def test_merges_with_spaces_in_pairs(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")

    def as_pairs(found: Any) -> None:
        found["model"]["merges"] = [merge.split(" ") for merge in found["model"]["merges"]]

    edit(folder, "tokenizer.json", as_pairs)
    path = convert(folder, tmp_path / "out.gguf").path
    assert llama_ids(path, PROBE) == own_ids(folder, PROBE)


BROKEN: dict[str, Callable[[Any], None]] = {
    "no model": lambda t: t.pop("model"),
    "model is a list": lambda t: t.update(model=[1]),
    "no vocab": lambda t: t["model"].pop("vocab"),
    "vocab is a list": lambda t: t["model"].update(vocab=["a"]),
    "id beyond the embedding": lambda t: t["model"]["vocab"].update(zzz=10**6),
    "negative id": lambda t: t["model"]["vocab"].update(zzz=-1),
    "id is text": lambda t: t["model"]["vocab"].update(zzz="1"),
    "id is huge": lambda t: t["model"]["vocab"].update(zzz=10**400),
    "no merges": lambda t: t["model"].update(merges=[]),
    "merge is a number": lambda t: t["model"].update(merges=[1]),
    "merges are text": lambda t: t["model"].update(merges="a b"),
    "added is an object": lambda t: t.update(added_tokens={"a": 1}),
    "added has no id": lambda t: t.update(added_tokens=[{"content": "x"}]),
    "added is a number": lambda t: t.update(added_tokens=[7]),
    "added takes a taken place": lambda t: t["added_tokens"][1].update(id=5),
    "unigram": lambda t: t["model"].update(type="Unigram"),
    "pre_tokenizer is text": lambda t: t.update(pre_tokenizer="x"),
    "post_processor is a list": lambda t: t.update(post_processor=[1]),
    "post_processor is text": lambda t: t.update(post_processor="x"),
    "normalizer is text": lambda t: t.update(normalizer="NFC"),
    "not an object": lambda t: t.clear(),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tokenizers_are_told_in_one_message(case: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "qwen2")
    (folder / "merges.txt").unlink(missing_ok=True)
    edit(folder, "tokenizer.json", BROKEN[case])
    out = tmp_path / "out.gguf"
    try:
        convert(folder, out)
    except PortableError as error:
        assert error.exit_code in (2, 3)
        assert "\n" not in str(error)
        assert not out.exists()
    else:
        assert llama_ids(out, "Hello") == own_ids(folder, "Hello")


SETTINGS: dict[str, Any] = {
    "eos is a number": {"eos_token": 5},
    "eos is a list": {"eos_token": ["a"]},
    "decoder is a list": {"added_tokens_decoder": [1]},
    "decoder entry is text": {"added_tokens_decoder": {"3": "x"}},
    "template is a number": {"chat_template": 5},
    "template list of numbers": {"chat_template": [5]},
    "class is a number": {"tokenizer_class": 5},
    "additional is a number": {"additional_special_tokens": 5},
    "prefix is text": {"add_prefix_space": "yes"},
}


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral", "bert"])
@pytest.mark.parametrize("case", SETTINGS)
def test_odd_settings_convert_or_are_told(case: str, family: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", family, spm=family == "mistral")
    edit(folder, "tokenizer_config.json", lambda found: found.update(SETTINGS[case]))
    try:
        convert(folder, tmp_path / "out.gguf")
    except PortableError as error:
        assert error.exit_code in (2, 3)
        assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(("family", "prefix"), [("internlm2", True), ("gemma3", False)])
def test_tokenizer_model_says_whether_text_begins_with_a_space(
    family: str, prefix: bool, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "model", family)
    assert adds_prefix((folder / "tokenizer.model").read_bytes()) is prefix


def test_tokenizer_model_cut_short(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "mistral", spm=True)
    data = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(data[: len(data) // 2 + 3])
    with pytest.raises(CheckpointError, match="tokenizer"):
        convert(folder, tmp_path / "out.gguf")


def test_tokens_that_steer_are_control_whatever_their_flag() -> None:
    assert all(map(looks_special, ["<|im_end|>", "<｜User｜>", "<unused7>", "<pad>"]))
    assert not any(map(looks_special, ["<tool_call>", "hello", "|>", ""]))


@pytest.mark.parametrize("name", ["cls", "sep", "unk"])
def test_an_encoder_without_its_frame_would_abort_llama_cpp(name: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "bert")
    edit(folder, "tokenizer_config.json", lambda found: found.update({f"{name}_token": [1]}))
    with pytest.raises(CheckpointError, match=f"name no .{name.upper()}. token"):
        convert(folder, tmp_path / "out.gguf")


def test_a_normalizer_flag_that_is_no_flag_is_not_written(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "bert")
    edit(folder, "tokenizer.json", lambda found: found["normalizer"].update(lowercase=[]))
    keys = Gguf(convert(folder, tmp_path / "out.gguf").path).keys
    assert "tokenizer.ggml.normalizer.lowercase" not in keys


def test_no_byte_tokens_would_end_llama_cpp_at_first_use(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "mistral")

    def without_bytes(found: Any) -> None:
        vocab = found["model"]["vocab"]
        for byte in range(256):
            vocab[f"byte{byte}"] = vocab.pop(f"<0x{byte:02X}>")

    edit(folder, "tokenizer.json", without_bytes)
    with pytest.raises(CheckpointError, match="no token for the byte 0"):
        convert(folder, tmp_path / "out.gguf")
