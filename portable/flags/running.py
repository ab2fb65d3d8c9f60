"""Flags of every command that runs a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from portable.engine.config import ENGINE, LONGEST_CONTEXT, FlashAttention, KvType, Pooling
from portable.errors import UsageError
from portable.flags.complete import complete_model
from portable.flags.placement import Placement
from portable.flags.rope import Stretch


@dataclass(frozen=True)
class Running(Stretch, Placement):
    """How the model runs."""

    context: Annotated[
        str,
        typer.Option(
            "--context", "-c", help="Tokens; 0: the model's, at most 8192; max: all that fits."
        ),
    ] = "0"
    threads: Annotated[int, typer.Option(help="CPU threads; 0: chosen and adapted.")] = ENGINE[
        "threads"
    ]
    eco: Annotated[
        bool, typer.Option("--eco", help="On battery: half the threads, low priority.")
    ] = ENGINE["eco"]
    flash_attention: Annotated[
        FlashAttention,
        typer.Option(help="auto: where it can be; off: llama.cpp rounds alike for all chunks."),
    ] = ENGINE["flash_attention"]
    kv_type: Annotated[
        KvType,
        typer.Option(
            help="KV cache: q8_0 and q4_0 are smaller and less exact; auto: f16 if it fits."
        ),
    ] = ENGINE["kv_type"]
    speculate: Annotated[
        bool, typer.Option(help="Guess repetitions ahead: for edits and quotes.")
    ] = ENGINE["speculate"]
    draft: Annotated[
        str | None,
        typer.Option(
            help="A small MODEL of the same vocabulary that guesses ahead.",
            autocompletion=complete_model,
        ),
    ] = None
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same answer in any crowd; slower.")
    ] = ENGINE["deterministic"]
    pooling: Annotated[
        Pooling, typer.Option(help="How embeddings are made; none: not of a model that chats.")
    ] = ENGINE["pooling"]
    adapter: Annotated[
        Path | None, typer.Option(help="LoRA adapter, as `portable convert` writes it.")
    ] = ENGINE["adapter"]
    prompt_cache: Annotated[
        str, typer.Option(help="Disk for what was read before: auto, a size such as 4GB, or off.")
    ] = "auto"

    @property
    def tokens(self) -> dict[str, Any]:
        """`--context` as fields of EngineConfig. Raises UsageError."""
        text = self.context.strip().lower()
        if text == "max":
            return {"context": 0, "default_context": LONGEST_CONTEXT}
        if not text.isdecimal():
            raise UsageError(
                f"--context {self.context!r} is not known",
                hint="a number of tokens, 0 or max",
                param="context",
            )
        return {"context": int(text)}
