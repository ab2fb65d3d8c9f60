"""Loads a draft model beside the one that answers, if it can guess for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from portable.engine.config import EngineConfig
from portable.engine.fallback import stepping_down
from portable.engine.llama import Llama
from portable.engine.speculation.draftmodel import DraftModel
from portable.engine.speculation.vocabularies import check_same
from portable.engine.threads import Threads
from portable.errors import NotEnoughMemory, UsageError


def load_draft(main: Llama, config: EngineConfig, threads: Threads | None = None) -> DraftModel:
    """`config.draft` with a context like the main model's.

    Raises UsageError if one of them does not suit the other, and what loading raises.
    """
    path = config.draft or Path()
    _check_keeps_parts(main, config.model.name)
    own = replace(
        config,
        model=path,
        draft=None,
        context=main.context,
        step_rows=config.rows,
        gpu_layers=0 if config.gpu_layers == 0 else "auto",
        adapter=None,
        prompt_cache=None,
    )
    try:
        draft = stepping_down(own, lambda fallback: Llama(own, beside=main, fallback=fallback))
    except NotEnoughMemory as error:
        raise NotEnoughMemory(
            f"the draft model {path.name} has no room: {error.message}", hint="leave --draft out"
        ) from error
    try:
        _check_keeps_parts(draft, path.name)
        check_same(main.spelling(), draft.spelling(), path.name)
    except UsageError:
        draft.close()
        raise
    main.claim(draft.taken)
    main.join(draft)
    longest = draft.info().trained_context
    return DraftModel(draft, main.vocabulary, own, longest, threads=threads)


def _check_keeps_parts(model: Llama, name: str) -> None:
    if not model.can_keep_part:
        raise UsageError(
            f"{name} is recurrent: it cannot take a wrong guess back",
            hint="leave --draft out",
            param="draft",
        )
