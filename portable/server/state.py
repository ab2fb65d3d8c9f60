"""What every endpoint needs, made once for one application."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from portable.engine import protocol
from portable.engine.sequence import SamplingParams, layered
from portable.errors import InvalidRequest
from portable.server.config import ServerConfig
from portable.server.generate import Ask, Generator
from portable.server.model import ModelProcess
from portable.server.names import Names


class State:
    """The served model, its names, and the sampling that holds where a request says nothing."""

    def __init__(self, config: ServerConfig, model: ModelProcess) -> None:
        self.config = config
        self.model = model
        self.names = Names(config.names, any_model=config.any_model)
        self.generator = Generator(model, config)
        self.created = int(time.time())

    def sampling(self, said: Mapping[str, Any]) -> SamplingParams:
        """What a request said, over the defaults; the model's own are known once it is loaded."""
        info, config = self.model.info, self.config
        return layered(config.fallback, info.sampling if info else {}, config.sampling, said)

    def asks(
        self, id: str, count: int, command: Callable[[str, int], protocol.Generate]
    ) -> list[Ask]:
        """`count` answers to one request; `command` makes one of an id and an index.

        Raises InvalidRequest for more than the model answers at once.
        """
        if count > self.model.config.slots:
            slots = self.model.config.slots
            raise InvalidRequest(f"n: at most {slots} answers at once", param="n")
        ids = [id, *(f"{id}-{at}" for at in range(1, count))]
        return [Ask(one, partial(command, one, at)) for at, one in enumerate(ids)]

    def clamped(self, said: Mapping[str, Any], prompt_tokens: int | None) -> dict[str, str]:
        """A header that tells how many tokens are left when fewer than asked for."""
        max_tokens = self.sampling(said).max_tokens
        if max_tokens is None or prompt_tokens is None or self.model.info is None:
            return {}
        left = self.model.info.context - prompt_tokens
        return {"x-portable-clamped": str(left)} if left < max_tokens else {}
