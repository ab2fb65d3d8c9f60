"""One question to a model that is no generation, from the request to its answer."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from portable.engine import protocol
from portable.engine.sequence import Usage
from portable.errors import InvalidRequest
from portable.server.generate import check_loaded, unless_left
from portable.server.observe import record_of
from portable.server.served import Served
from portable.server.state import State

_TEXT = re.compile(r"^texts\[(\d+)\]$")


# Called when the model is loaded.
MakeAsk = Callable[[Served], protocol.Ask]


async def query(
    request: Request, model: str | None, ask: protocol.Ask | MakeAsk, field: str = "input"
) -> tuple[Served, Any]:
    """The model that is meant, loaded, and its answer: the one that belongs to `ask`.

    The texts of `ask` came in `field`. Raises what the model refuses with, QueueFull, Loading,
    EngineError if the model's process dies, and ClientLeft; a client that leaves cancels it.
    """
    state: State = request.app.state.portable
    served, record = state.fleet.resolve(model), record_of(request)
    record.model = served.id
    check_loaded(state, served)
    id = f"query-{uuid.uuid4().hex}"  # a request's own id is what its client says

    def command() -> protocol.Query:
        return protocol.Query(id, ask(served) if callable(ask) else ask)

    stream = state.fleet.open(served, id, command)
    try:
        return served, await unless_left(request, stream.accepted)
    except InvalidRequest as error:  # the engine does not know what the field was called
        error.param = _TEXT.sub(rf"{field}[\1]", error.param or "") or None
        raise
    finally:
        served.process.close(stream)


def spent(request: Request, tokens: list[int]) -> dict[str, int]:
    """OpenAI's usage of what reads so many tokens and writes none; counted."""
    used = Usage(prompt_tokens=sum(tokens), cached_tokens=0, completion_tokens=0)
    record_of(request).finish(used)
    return {"prompt_tokens": used.prompt_tokens, "total_tokens": used.prompt_tokens}
