"""What families with experts share: rows, sizes and keys of a mixture; knows no single family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from convert.arch.table import Row
from convert.config import Config
from portable.errors import UnsupportedModel

BLOCK = "blk.{i}"
COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
GATING = {"softmax": 1, "sigmoid": 2}
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def rows(
    source: str,
    router: str,
    names: Sequence[str] = PROJECTIONS,
    layers: Sequence[int] | None = None,
) -> list[Row]:
    """The router, and the stacked experts; `names` are those of gate, up and down."""
    wide, narrow = ("expert_ff", "hidden"), ("hidden", "expert_ff")
    dims = {"gate": wide, "up": wide, "down": narrow}
    gate = Row(router, f"{BLOCK}.ffn_gate_inp.weight", ("experts", "hidden"), layers=layers)
    return [gate] + [
        Row(f"{source}.{{e}}.{name}.weight", f"{BLOCK}.ffn_{kind}_exps.weight", dims[kind],
            layers=layers)
        for kind, name in zip(dims, names, strict=True)
    ]  # fmt: skip


def shared(source: str, layers: Sequence[int] | None = None) -> list[Row]:
    """The expert that every token passes, under DeepSeek's and Qwen2's names of its tensors."""
    dims = {"gate": ("shared_ff", "hidden"), "up": ("shared_ff", "hidden")}
    dims["down"] = ("hidden", "shared_ff")
    return [
        Row(f"{source}.{kind}_proj.weight", f"{BLOCK}.ffn_{kind}_shexp.weight", shape,
            layers=layers)
        for kind, shape in dims.items()
    ]  # fmt: skip


def without_mlp(rows: Iterable[Row]) -> list[Row]:
    """A dense model's rows but its feed-forward network, which experts replace."""
    return [row for row in rows if ".mlp." not in row.source]


def sizes(config: Config, width: str) -> dict[str, int]:
    """`width` is config.json's key for the experts' inner size."""
    return {"experts": count(config), "expert_ff": config.count(width)}


def count(config: Config) -> int:
    """How many experts; 0 for a dense model."""
    key = next((name for name in COUNTS if name in config), None)
    return config.count(key, limit=1024) if key else 0


def check_every_layer(config: Config) -> None:
    """llama.cpp knows these families with experts in every layer only."""
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step") != 1:
        raise UnsupportedModel(
            "config.json gives some layers no experts (mlp_only_layers, decoder_sparse_step)",
            hint="llama.cpp runs this architecture with experts in every layer only",
        )


def metadata(config: Config) -> Iterable[tuple[str, str, Any]]:
    """The keys of whatever config.json says of experts, in llama.cpp's order."""
    experts = count(config)
    if not experts:
        return
    yield "expert_count", "uint32", experts
    yield "expert_used_count", "uint32", config.count("num_experts_per_tok", limit=experts)
    for key, target in (
        ("n_group", "expert_group_count"),
        ("topk_group", "expert_group_used_count"),
    ):
        if key in config:
            yield target, "uint32", config.count(key, limit=experts)
    _check_groups(config, experts)
    if "scoring_func" in config:
        gating = config.get("scoring_func")
        if not isinstance(gating, str) or gating not in GATING:
            raise config.bad("scoring_func", " or ".join(GATING))
        yield "expert_gating_func", "uint32", GATING[gating]


def _check_groups(config: Config, experts: int) -> None:
    """llama.cpp ends its process on groups that share the experts unevenly, or are all used."""
    groups = config.get("n_group") or 0
    if groups >= experts or (groups > 1 and experts % groups):
        raise config.bad("n_group", f"a divisor of {experts} experts below it")
    if groups > 1 and not 0 < (config.get("topk_group") or 0) < groups:
        raise config.bad("topk_group", f"1 to {groups - 1} of {groups} groups")
