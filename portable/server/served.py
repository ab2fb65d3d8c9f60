"""One model of this server: its names, its process, and what holds where a request says nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from portable.dialects.dialect import Dialect
from portable.dialects.said import PLAIN, Reader
from portable.engine import protocol
from portable.engine.config import EngineConfig
from portable.engine.sequence import SamplingParams, layered
from portable.server.model import ModelProcess
from portable.server.speech import Speech
from portable.server.wanted import Conversation, Wanted

log = logging.getLogger("portable")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model to serve. `names` are its ids, the first one is shown.

    It is unloaded when nobody has used it for `keep_alive` seconds; None is never. A field that a
    request leaves out is taken from `sampling`, else from the model's own file, else from
    `fallback`. `dialect` is not the one that the chat template tells.
    """

    engine: EngineConfig
    names: tuple[str, ...] = ("default",)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    fallback: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    dialect: Dialect | None = None


class Served:
    """A model and its process, started or not. `load` is what is loading it, while that runs."""

    def __init__(self, config: ModelConfig, process: ModelProcess) -> None:
        self.config = config
        self.process = process
        self.created = int(time.time())
        self.keep_alive = config.keep_alive
        self.used_at = time.monotonic()
        self.load: asyncio.Task[None] | None = None
        self._speech: Speech | None = None

    @property
    def id(self) -> str:
        return self.config.names[0]

    @property
    def is_busy(self) -> bool:
        return self.process.is_busy

    @property
    def is_loaded(self) -> bool:
        return self.process.ready.is_set()

    @property
    def state(self) -> Literal["ready", "loading", "failed", "unloaded"]:
        if self.is_loaded:
            return "ready"
        if self.process.gone.is_set():
            return "failed"
        return "loading" if self.load or self.process.is_started else "unloaded"

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that it takes now, by device, but for the host."""
        info, beat = self.process.info, self.process.beat
        if info is None or not self.is_loaded:
            return {}
        return beat.memory if beat else {place.device: place.bytes for place in info.offloads}

    @property
    def is_on_gpu(self) -> bool:
        """Of this machine; Apple's survive its sleep."""
        info = self.process.info
        places = info.offloads if info and self.is_loaded else ()
        return any(p.layers and p.kind == "gpu" and p.device[:3] != "MTL" for p in places)

    def is_tired(self, now: float) -> bool:
        """Nobody has used it for longer than it is kept."""
        return self.keep_alive is not None and now - self.used_at >= self.keep_alive

    def tell(self) -> None:
        """Say in the log what was loaded, where, and why there; or why nothing was."""
        process, info = self.process, self.process.info
        if not self.is_loaded or info is None:
            log.error("%s cannot be loaded: %s", self.id, process.failure)
        else:
            log.info("%s is ready in %.1f s: %s", self.id, info.load_seconds, info.placement)
            log.info("%s; context %d tokens", process.offload_reason, info.context)
            log.info("tool calls as %s: %s", self.speech.name, self.speech.reason)

    def sampling(self, said: Mapping[str, Any]) -> SamplingParams:
        """What a request said, over the defaults; the model's own are known once it is loaded."""
        info, config = self.process.info, self.config
        return layered(config.fallback, info.sampling if info else {}, config.sampling, said)

    def command(self, wanted: Wanted, id: str, at: int) -> protocol.Generate:
        """Answer `at` of a request; called when the model is loaded."""
        params, prompt = self.sampling(wanted.said_of(at)), wanted.prompt_of(at)
        if isinstance(prompt, Conversation):
            return self.speech.command(id, params, prompt)
        return protocol.Generate(id, params, prompt=prompt)

    def reader(self, wanted: Wanted) -> Reader:
        """What reads the model's text; called when the model is loaded."""
        prompt = wanted.prompts[0]
        return self.speech.reader(prompt) if isinstance(prompt, Conversation) else PLAIN

    @property
    def speech(self) -> Speech:
        """Known once the model is loaded."""
        if self._speech is None or self._speech.template != self.process.template:
            self._speech = Speech(self.process.template, self.config.dialect)
        return self._speech

    def clamped(self, said: Mapping[str, Any], prompt_tokens: int | None) -> dict[str, str]:
        """A header that tells how many tokens are left when fewer than asked for."""
        max_tokens = self.sampling(said).max_tokens
        if max_tokens is None or prompt_tokens is None or self.process.info is None:
            return {}
        left = self.process.info.context - prompt_tokens
        return {"x-portable-clamped": str(left)} if left < max_tokens else {}
