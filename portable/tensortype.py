"""How ggml stores a row of values, type by type; knows no tensor and no file."""

from __future__ import annotations

from typing import NamedTuple


class TensorType(NamedTuple):
    """How ggml stores a row: `block` values take `bytes` bytes."""

    name: str
    id: int
    block: int
    bytes: int

    def row_bytes(self, values: int) -> int:
        return values // self.block * self.bytes


TYPES = {
    row[0]: TensorType(*row)
    for row in (
        ("F32", 0, 1, 4),
        ("F16", 1, 1, 2),
        ("BF16", 30, 1, 2),
        ("Q1_0", 41, 128, 18),
        ("Q2_0", 42, 64, 18),
        ("Q4_0", 2, 32, 18),
        ("Q4_1", 3, 32, 20),
        ("Q5_0", 6, 32, 22),
        ("Q5_1", 7, 32, 24),
        ("Q8_0", 8, 32, 34),
        ("Q2_K", 10, 256, 84),
        ("Q3_K", 11, 256, 110),
        ("Q4_K", 12, 256, 144),
        ("Q5_K", 13, 256, 176),
        ("Q6_K", 14, 256, 210),
        ("IQ1_S", 19, 256, 50),
        ("IQ1_M", 29, 256, 56),
        ("IQ2_XXS", 16, 256, 66),
        ("IQ2_XS", 17, 256, 74),
        ("IQ2_S", 22, 256, 82),
        ("IQ3_XXS", 18, 256, 98),
        ("IQ3_S", 21, 256, 110),
        ("IQ4_XS", 23, 256, 136),
        ("IQ4_NL", 20, 32, 18),
        ("TQ1_0", 34, 256, 54),
        ("TQ2_0", 35, 256, 66),
        ("MXFP4", 39, 32, 17),
        ("NVFP4", 40, 64, 36),
        ("I8", 24, 1, 1),
        ("I16", 25, 1, 2),
        ("I32", 26, 1, 4),
        ("I64", 27, 1, 8),
        ("F64", 28, 1, 8),
    )
}
BY_ID = {kind.id: kind for kind in TYPES.values()}
