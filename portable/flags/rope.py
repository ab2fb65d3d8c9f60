"""Flags for a context beyond the one that a model was trained for, as llama.cpp names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from portable.engine.config import Rope, RopeScaling

_OWN = "the model's"


@dataclass(frozen=True)
class Stretch:
    """RoPE and YaRN, for a --context beyond the trained one. Without these the model's own."""

    rope_scaling: Annotated[
        RopeScaling | None, typer.Option(help="How positions are scaled.", show_default=_OWN)
    ] = None
    rope_scale: Annotated[
        float | None, typer.Option(help="Context grows by this factor.", show_default=_OWN)
    ] = None
    rope_freq_base: Annotated[
        float | None, typer.Option(help="Base of RoPE's frequencies.", show_default=_OWN)
    ] = None
    yarn_orig_ctx: Annotated[
        int | None, typer.Option(help="Tokens trained for, before YaRN.", show_default=_OWN)
    ] = None
    yarn_ext_factor: Annotated[
        float | None, typer.Option(help="YaRN: extrapolation mix.", show_default=_OWN)
    ] = None
    yarn_attn_factor: Annotated[
        float | None, typer.Option(help="YaRN: attention magnitude.", show_default=_OWN)
    ] = None
    yarn_beta_fast: Annotated[
        float | None, typer.Option(help="YaRN: low correction dimension.", show_default=_OWN)
    ] = None
    yarn_beta_slow: Annotated[
        float | None, typer.Option(help="YaRN: high correction dimension.", show_default=_OWN)
    ] = None

    @property
    def rope(self) -> Rope:
        """These flags as the engine takes them. Raises UsageError."""
        return Rope(
            self.rope_scaling,
            self.rope_scale,
            self.rope_freq_base,
            self.yarn_orig_ctx,
            self.yarn_ext_factor,
            self.yarn_attn_factor,
            self.yarn_beta_fast,
            self.yarn_beta_slow,
        )
