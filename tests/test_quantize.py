"""Every quantization against llama.cpp's own quantizer: the type of each tensor and its bytes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from checkpoints import tiny
from ggufs import Gguf, Tensor
from tiny_experts import EXPERTS
from tiny_families import TINY

from convert import Options, convert, default_output_name, quant_name, quant_names
from convert.mix import Mix, Shape, more_bits
from convert.quantize import library
from convert.quants import QUANTS
from portable.errors import UsageError
from portable.tensortype import TYPES

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
# Rows that K-quants divide, that only blocks of 32 divide, and that nothing divides; few and many
# heads for each key head; tied and untied; the 80 layers of a 70B; an encoder; experts, and eight
# of them, for which llama.cpp has rules of their own.
MODELS = {
    "qwen2-shared-heads": (
        "qwen2",
        {**WIDE, "num_key_value_heads": 2, "num_hidden_layers": 9, "tie_word_embeddings": False},
    ),
    "qwen3-tied": (
        "qwen3",
        {**WIDE, "num_key_value_heads": 4, "num_hidden_layers": 8, "head_dim": 32},
    ),
    "llama-narrow": ("llama", {"num_hidden_layers": 3}),
    "llama-odd": ("llama", {"hidden_size": 80, "intermediate_size": 72, "head_dim": 20}),
    "llama-70b": (
        "llama",
        {
            "num_hidden_layers": 80,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_key_value_heads": 1,
            "head_dim": 8,
        },
    ),
    "bert": ("bert", {**WIDE, "num_hidden_layers": 8}),
    "qwen3-moe": ("qwen3_moe", {**WIDE, "num_hidden_layers": 9, "moe_intermediate_size": 256}),
    "qwen2-moe-narrow": ("qwen2_moe", {"num_hidden_layers": 3, "moe_intermediate_size": 24}),
    "mixtral": ("mixtral", {**WIDE, "num_hidden_layers": 9}),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, options = MODELS[request.param]
    folder = tiny(tmp_path_factory.mktemp("model") / f"Tiny-{request.param}", family, **options)
    convert(folder, folder / "lossless.gguf", Options(quant="F32"))
    return folder


def peer(source: Path, target: Path, ftype: int) -> bool:
    """llama_model_quantize; False where it refuses."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 2
    done = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    return bool(done == 0)


def vector(tensor: Tensor) -> Tensor:
    """A matrix of one row as llama.cpp's quantizer writes it, which drops dimensions of 1."""
    return tensor._replace(shape=tensor.shape[:1] if tensor.shape[1:] == (1,) else tensor.shape)


@pytest.mark.parametrize("quant", [name for name in QUANTS if name != "F32"])
def test_equals_llama_model_quantize(model: Path, quant: str, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    if not peer(model / "lossless.gguf", theirs, QUANTS[quant].ftype):
        with pytest.raises(UsageError, match=r"importance matrix|does not divide"):
            convert(model, ours, Options(quant=quant))
        return
    convert(model, ours, Options(quant=quant))
    assert_same(ours, theirs)


def assert_same(ours: Path, theirs: Path) -> None:
    found, wanted = Gguf(ours), Gguf(theirs)
    types = {name: tensor.type for name, tensor in wanted.tensors.items()}
    assert {name: tensor.type for name, tensor in found.tensors.items()} == types
    assert {name: vector(tensor) for name, tensor in found.tensors.items()} == wanted.tensors
    assert list(found.tensors) == list(wanted.tensors)
    assert found.keys["general.file_type"] == wanted.keys["general.file_type"]


@pytest.mark.parametrize(
    "family",
    [
        *TINY,
        "qwen3_moe",
        "qwen2_moe",
        "mixtral",
        "deepseek_v2",
        "deepseek_v3",
        "nomic_bert",
        "nomic_bert_moe",
        "xlm_roberta",
        "xlm_roberta_classifier",
    ],
)
def test_every_family_equals_llama_model_quantize(family: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", family, **wide(family))
    lossless = convert(folder, tmp_path / "lossless.gguf", Options(quant="F32")).path
    assert peer(lossless, tmp_path / "theirs.gguf", QUANTS["Q4_K_M"].ftype)
    assert_same(
        convert(folder, tmp_path / "ours.gguf", Options(quant="Q4_K_M")).path,
        tmp_path / "theirs.gguf",
    )


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "Q2_K", "MXFP4_MOE"])
def test_4_bit_experts_stay_as_they_are(quant: str, tmp_path: Path) -> None:
    """llama_model_quantize must be told so, but for the type that is theirs."""
    folder = tiny(tmp_path / "model", "gpt_oss", **wide("gpt_oss"))
    lossless = convert(folder, tmp_path / "lossless.gguf", Options(quant="BF16")).path
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = QUANTS[quant].ftype
    kept = (llama_cpp.llama_model_tensor_override * 2)()
    kept[0].pattern, kept[0].type = b"_exps", TYPES["MXFP4"].id
    params.tt_overrides = kept
    theirs = tmp_path / "theirs.gguf"
    assert not llama_cpp.llama_model_quantize(
        str(lossless).encode(), str(theirs).encode(), ctypes.byref(params)
    )
    assert_same(convert(folder, tmp_path / "ours.gguf", Options(quant=quant)).path, theirs)


def wide(family: str) -> dict[str, Any]:
    """Sizes that K-quants divide, as config.json's keys."""
    if family in TINY:
        head = {"head_dim": 32} if "head_dim" in TINY[family].config else {}
        return {**WIDE, **head, "num_hidden_layers": 9}
    return {**WIDE, "moe_intermediate_size": 256} if family in EXPERTS else {}


def test_no_quantization_of_llama_cpp_is_missing() -> None:
    removed = {"GUESSED", "ALL_F32", "MOSTLY_NVFP4"}
    known = {
        name.removeprefix("LLAMA_FTYPE_"): value
        for name, value in vars(llama_cpp).items()
        if name.startswith("LLAMA_FTYPE_")
    }
    wanted = {n.removeprefix("MOSTLY_"): v for n, v in known.items() if n not in removed}
    ours = {name: quant.ftype for name, quant in QUANTS.items()}
    assert {n: v for n, v in wanted.items() if n in ours} == {
        n: v for n, v in ours.items() if n in wanted
    }
    assert set(wanted) <= set(ours), set(wanted) - set(ours)


@pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: kind.name)
def test_block_sizes_are_ggmls(kind: tuple[str, int, int, int]) -> None:
    name, number, block, size = kind
    assert library().ggml_row_size(number, block) == size
    library().ggml_type_name.restype = ctypes.c_char_p
    assert library().ggml_type_name(number).decode().upper() == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M"), ("q3_k", "Q3_K_M"), ("q5_k", "Q5_K_M"),
     ("f16", "F16"), (" bf16 ", "BF16"), ("q4-k-m", "Q4_K_M"), ("mxfp4_moe", "MXFP4_MOE")],
)  # fmt: skip
def test_names_in_any_case_and_by_alias(text: str, name: str) -> None:
    assert quant_name(text) == name
    assert name in quant_names()


@pytest.mark.parametrize("text", ["", "Q4_K_X", "COPY", "Q9_0", "八位"])
def test_an_unknown_name_is_told_its_neighbours(text: str) -> None:
    with pytest.raises(UsageError, match="unknown quantization") as caught:
        quant_name(text)
    assert any(name in caught.value.hint for name in quant_names())


def test_default_output_name() -> None:
    assert default_output_name("Qwen/Qwen2.5-0.5B-Instruct", "q8_0") == (
        "Qwen2.5-0.5B-Instruct-Q8_0.gguf"
    )


def test_more_bits_go_to_the_ends_and_every_third() -> None:
    assert [i for i in range(24) if more_bits(i, 24)] == [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]


def test_a_quarter_of_the_layers_have_larger_ffn_down_in_q4_k_m() -> None:
    names = [f"blk.{i}.ffn_down.weight" for i in range(24)]
    mix = Mix("Q4_K_M", Shape(24, 14, 2, "qwen2", True), names)
    types = [mix.type_of(name, (256, 256)).name for name in names]
    assert types.count("Q6_K") == 12
    assert set(types) == {"Q6_K", "Q4_K"}
