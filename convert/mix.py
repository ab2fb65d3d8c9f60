"""Which ggml type each tensor gets in a given quantization; pure, knows no file and no bytes.

The rules are llama.cpp's (`src/llama-quant.cpp` at the version that pyproject.toml pins): a file
written here must equal one quantized there, type for type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convert.quants import QUANTS, Quant
from portable.errors import UsageError
from portable.tensortype import TYPES, TensorType

# What a type becomes where a row's length is not a multiple of its block of 256 values.
FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
NEEDS_IMATRIX = {"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"}
VERY_LOW = {"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M"}

# First match wins, as parts of names: the order is llama.cpp's.
CATEGORIES = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)


@dataclass(frozen=True)
class Shape:
    """What the rules look at: of a model with `heads` query heads and `kv_heads` key heads."""

    layers: int
    heads: int
    kv_heads: int
    arch: str
    tied: bool
    experts: int = 0

    @property
    def gqa(self) -> int:
        return self.heads // self.kv_heads

    @property
    def is_70b(self) -> bool:
        """80 layers: llama.cpp's name for models whose attn_v is shared by many heads."""
        shared = self.arch == "qwen2" or (self.arch == "llama" and self.gqa != 1)
        return self.layers == 80 and shared

    @property
    def is_8x(self) -> bool:
        """Eight experts: llama.cpp's rules for Mixtral, whose attention is a small part of it."""
        return self.experts == 8


def category(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name == "token_embd.weight":
        return "token_embd"
    return next((kind for part, kind in CATEGORIES if part in name), "other")


def allows_quantization(name: str, dims: int) -> bool:
    """Norms, biases, positions, token types and routers stay in full precision."""
    return (
        dims >= 2
        and name.endswith("weight")
        and "_norm.weight" not in name
        and "ffn_gate_inp" not in name
        and name not in ("position_embd.weight", "token_types.weight")
    )


def more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between, matter more."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


class Mix:
    """Types tensors one after another, in file order: several rules count how many came before."""

    def __init__(
        self, quant: str, shape: Shape, names: Sequence[str], *, guided: bool = False
    ) -> None:
        """`guided`: there is an importance matrix, with which some tensors do with fewer bits."""
        self.quant: Quant = QUANTS[quant]
        self.guided = guided
        self.shape = shape
        self.values = sum(category(name) == "attn_v" for name in names)
        self.seen = {"attn_v": 0, "ffn_down": 0, "ffn_gate": 0, "ffn_up": 0}
        self.fallbacks: dict[str, str] = {}  # tensor -> the type that does not fit it

    def type_of(self, name: str, dims: Sequence[int]) -> TensorType:
        """`dims` as in the checkpoint: the row's length last."""
        if not allows_quantization(name, len(dims)):
            return TYPES["F32"]
        if not self.quant.quantized:
            return TYPES[self.quant.type]
        if dims[:-1] == (1,):
            return TYPES["F32"]  # llama.cpp's quantizer counts no dimension of 1: a vector
        return TYPES[self._fit(name, self._wanted(name, dims), dims[-1])]

    def _wanted(self, name: str, dims: Sequence[int]) -> str:
        kind = category(name)
        if kind == "output" or (kind == "token_embd" and self.shape.tied):
            return self._output(dims[-1])
        if self.quant.name == "MXFP4_MOE":
            return "MXFP4" if len(dims) == 3 and dims[0] > 1 else "Q8_0"
        if kind == "token_embd":
            return EMBEDDING.get(self.quant.name, self.quant.type)
        self.layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
        rules = LOW_RULES if self.quant.name in VERY_LOW else RULES
        wanted = rules[kind](self) if kind in rules else self.quant.type
        if kind in self.seen:
            self.seen[kind] += 1
        return wanted

    def _output(self, columns: int) -> str:
        """The output matrix, or the embedding that serves as one."""
        quant = self.quant
        if quant.name == "MXFP4_MOE" or columns % TYPES[quant.type].block:
            return "Q8_0"
        if quant.name in VERY_LOW or quant.name == "IQ3_XXS":
            return "Q5_K"
        return "Q8_0" if quant.type == "Q8_0" else "Q6_K"

    def _fit(self, name: str, wanted: str, columns: int) -> str:
        if columns % TYPES[wanted].block == 0:
            return wanted
        if wanted not in FALLBACK and TYPES[wanted].block > 32:
            raise UsageError(
                f"{self.quant.name} cannot store {name}: its rows have {columns} values, which "
                f"{TYPES[wanted].block} does not divide",
                hint="choose Q4_K_M or Q8_0",
                param="quant",
            )
        self.fallbacks[name] = wanted
        smaller = FALLBACK.get(wanted, wanted)
        return smaller if columns % TYPES[smaller].block == 0 else "F16"

    def is_blind(self, name: str, chosen: str) -> bool:
        """Whether a tensor of this type is noise unless an importance matrix says what matters."""
        if category(name) in ("output", "token_embd"):
            return False
        return chosen in NEEDS_IMATRIX or (chosen == "Q2_K" and self.quant.name == "Q2_K_S")

    def at(self, kind: str) -> int:
        """Which one of its kind the tensor is; with experts the layer, which may have several."""
        return self.layer if self.shape.experts > 1 else self.seen[kind]

    def first(self, kind: str, part: int) -> bool:
        """Whether the tensor is in the first 1/part of the layers."""
        return self.at(kind) < self.shape.layers // part

    def middle(self, kind: str) -> bool:
        layers = self.shape.layers
        return layers // 8 <= self.at(kind) < 7 * layers // 8


EMBEDDING = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
    **dict.fromkeys(("TQ1_0", "TQ2_0", "Q2_0"), "Q4_K"),
}


def low_attn_v(mix: Mix) -> str:
    if mix.shape.gqa >= 4 or mix.shape.experts >= 4:
        return "Q4_K"
    return "IQ3_S" if mix.quant.name in ("IQ2_S", "IQ2_M") else "Q2_K"


def low_ffn_down(mix: Mix) -> str:
    # These types alone count the tensors even with experts.
    if mix.seen["ffn_down"] >= mix.shape.layers // 8:
        return mix.quant.type
    return "IQ3_S" if mix.quant.name in ("IQ2_S", "IQ2_M") else "Q2_K"


def low_attn_k(mix: Mix) -> str:
    return "Q4_K" if mix.shape.is_8x else mix.quant.type


def low_attn_output(mix: Mix) -> str:
    if mix.shape.is_8x:
        return "Q5_K"
    by_name = {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S"}
    return by_name.get(mix.quant.name, mix.quant.type)


def attn_v(mix: Mix) -> str:
    if mix.shape.is_8x:
        return "Q8_0"
    wanted = attn_v_by_name(mix)
    return "Q5_K" if mix.shape.is_70b and wanted in ("Q3_K", "Q4_K") else wanted


def attn_v_by_name(mix: Mix) -> str:
    name, seen, shared = mix.quant.name, mix.seen["attn_v"], mix.shape.gqa >= 4
    if name in ATTN_V_SHARED:
        many, few = ATTN_V_SHARED[name]
        if mix.guided and name == "IQ3_XXS":
            few = ""
        return (many if shared else few) or mix.quant.type
    if name == "Q3_K_M":
        return "Q5_K" if seen < 2 else "Q4_K"
    if name in ("Q4_K_M", "Q5_K_M") and more_bits(seen, mix.values):
        return "Q6_K"
    if name == "Q4_K_S" and seen < 4:
        return "Q5_K"
    return {"IQ3_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(name, mix.quant.type)


# With at least four query heads for each key head, and with fewer; "" is the quant's own type.
ATTN_V_SHARED = {
    "Q2_K": ("Q4_K", "Q3_K"),
    "Q2_K_S": ("Q4_K", ""),
    "IQ3_XXS": ("Q4_K", "IQ3_S"),
    "IQ3_XS": ("Q4_K", ""),
    "IQ3_S": ("Q4_K", ""),
    "IQ4_NL": ("Q5_K", ""),
    "IQ4_XS": ("Q5_K", ""),
}


def ffn_down(mix: Mix) -> str:
    name, eighth = mix.quant.name, mix.first("ffn_down", 8)
    if name == "IQ3_M" and mix.shape.is_8x:
        eighth = eighth or more_bits(mix.at("ffn_down"), mix.shape.layers)
    table = FFN_DOWN_GUIDED if mix.guided else FFN_DOWN_FIRST_EIGHTH
    if name in table:
        first, rest = table[name]
        return (first if eighth else rest) or mix.quant.type
    if name == "Q3_K_M":
        return "Q5_K" if mix.first("ffn_down", 16) else "Q4_K"
    if name in ("Q4_K_M", "Q5_K_M") and more_bits(mix.at("ffn_down"), mix.shape.layers):
        return "Q6_K"
    return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}.get(name, mix.quant.type)


FFN_DOWN_FIRST_EIGHTH = {
    "Q2_K_S": ("Q4_K", ""),
    "IQ3_XXS": ("Q4_K", "Q3_K"),
    "IQ3_M": ("Q4_K", ""),
    "IQ4_NL": ("Q5_K", ""),
    "IQ4_XS": ("Q5_K", ""),
    "Q4_K_S": ("Q5_K", ""),
}
FFN_DOWN_GUIDED = {
    **{name: FFN_DOWN_FIRST_EIGHTH[name] for name in ("Q2_K_S", "IQ3_M", "Q4_K_S")},
    "Q4_0": ("Q4_1", ""),
    "Q5_0": ("Q5_1", ""),
}


def attn_output(mix: Mix) -> str:
    if mix.shape.is_8x:
        return "Q5_K" if mix.quant.name in ATTN_OUTPUT_8X else mix.quant.type
    by_name = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
    return {**by_name, "IQ3_M": "Q4_K"}.get(mix.quant.name, mix.quant.type)


ATTN_OUTPUT_8X = {"Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_XS", "IQ3_XXS", "IQ3_S"} | {
    "IQ3_M",
    "IQ4_NL",
    "IQ4_XS",
}


def attn_k(mix: Mix) -> str:
    return "Q8_0" if mix.shape.is_8x else attn_qk(mix)


def attn_qk(mix: Mix) -> str:
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(mix.quant.name, mix.quant.type)


def ffn_wide(kind: str) -> Callable[[Mix], str]:
    def rule(mix: Mix) -> str:
        low = mix.quant.name == "IQ3_XS" and mix.middle(kind)
        return "IQ3_XXS" if low else mix.quant.type

    return rule


LOW_RULES: dict[str, Callable[[Mix], str]] = {
    "attn_v": low_attn_v,
    "attn_k": low_attn_k,
    "ffn_down": low_ffn_down,
    "attn_output": low_attn_output,
}
RULES: dict[str, Callable[[Mix], str]] = {
    "attn_v": attn_v,
    "attn_q": attn_qk,
    "attn_k": attn_k,
    "attn_output": attn_output,
    "ffn_down": ffn_down,
    "ffn_gate": ffn_wide("ffn_gate"),
    "ffn_up": ffn_wide("ffn_up"),
}
