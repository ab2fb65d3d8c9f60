"""POST /v1/responses, and the responses that are kept: GET and DELETE /v1/responses/{id}."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from portable.errors import InvalidRequest
from portable.server import items
from portable.server.api.chat import wanted
from portable.server.api.tokens import prompt_tokens
from portable.server.body import read_body
from portable.server.generate import respond
from portable.server.kept import Kept, ResponseStore
from portable.server.params import in_own_words
from portable.server.replies import JSON
from portable.server.responses import ResponseLayout
from portable.server.state import State
from portable.server.wire.responses import Item, ResponseRequest

HOME = "portable.home"


class NotKept(InvalidRequest):
    """Never made, not stored, deleted, or gone for room."""

    status = 404


async def create_response(request: Request) -> Response:
    """A whole response, or with `stream` its events as they come."""
    asked = await read_body(request, ResponseRequest)
    store = _store(request)
    conversation = read(asked, store)
    # Of several servers the one that keeps it: whoever stands before them finds it by the id.
    home: str = request.scope.get(HOME, "")

    def keep(response: dict[str, Any]) -> None:
        if asked.store is not False:
            said = [msgspec.convert(item, Item) for item in response["output"]]
            store.put(Kept(response, [*conversation, *said]))

    try:
        answer = wanted(items.as_chat(asked, conversation), "input")
        return await respond(
            request, answer, lambda model: ResponseLayout(model, asked, keep, home)
        )
    except InvalidRequest as error:
        raise in_own_words(error, items.NAMES) from None


async def count_response_tokens(request: Request) -> Response:
    """How many tokens the model would read."""
    asked = await read_body(request, ResponseRequest)
    try:
        chat = items.as_chat(asked, read(asked, _store(request)))
        count = await prompt_tokens(request, chat, "input")
    except InvalidRequest as error:
        raise in_own_words(error, items.NAMES) from None
    return JSON({"object": "response.input_tokens", "input_tokens": count})


async def get_response(request: Request) -> Response:
    """A response that is kept."""
    id = request.path_params["id"]
    kept = _store(request).get(id)
    if kept is None:
        raise _not_kept("response", id)
    return JSON(kept.response)


async def delete_response(request: Request) -> Response:
    """Forget a response that is kept."""
    id = request.path_params["id"]
    if not _store(request).delete(id):
        raise _not_kept("response", id)
    return JSON({"id": id, "object": "response", "deleted": True})


def read(asked: ResponseRequest, store: ResponseStore) -> list[Item]:
    """The whole conversation: what is kept of it, then the input. Raises InvalidRequest."""
    before, id = None, asked.previous_response_id
    if id is not None and (before := store.get(id)) is None:
        raise _not_kept("previous_response", id, "previous_response_id")
    if isinstance(asked.input, str):
        new = [Item(role="user", content=asked.input)]
    else:
        new = [_found(item, f"input[{at}].id", store) for at, item in enumerate(asked.input)]
        items.check(new)
    return [*(before.items if before else ()), *new]


def _found(item: Item, path: str, store: ResponseStore) -> Item:
    """The item that is meant, where it is only a reference."""
    if item.kind != "item_reference":
        return item
    if (found := store.item(item.id or "")) is None:
        raise _not_kept("item", item.id or "", path)
    return found


def _not_kept(what: str, id: str, param: str | None = None) -> NotKept:
    where = f"{param}: " if param else ""
    error = NotKept(
        f"{where}the {what.replace('_', ' ')} {id[:80]!r} is not kept here",
        hint="send the conversation's items as `input`",
        param=param,
    )
    error.code = f"{what}_not_found"
    return error


def _store(request: Request) -> ResponseStore:
    state: State = request.app.state.portable
    return state.responses
