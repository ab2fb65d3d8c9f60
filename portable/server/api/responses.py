"""POST /v1/responses, and the responses that are kept: GET and DELETE /v1/responses/{id}."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from portable.errors import InvalidRequest
from portable.server import items, params
from portable.server.api.chat import wanted
from portable.server.body import read_body
from portable.server.generate import respond
from portable.server.kept import Kept, ResponseStore
from portable.server.replies import JSON
from portable.server.responses import ResponseLayout
from portable.server.state import State
from portable.server.wire import chat
from portable.server.wire.chat import ChatRequest, Function, TemplateOptions, Tool
from portable.server.wire.responses import FunctionTool, Item, ResponseRequest, ToolChoice
from portable.server.wire.sampling import JsonSchema, ResponseFormat, Sampling

_NO_THOUGHTS = ("none", "minimal")
_UNSUPPORTED = ("background", "conversation", "prompt", "top_logprobs")
# A chat's fields by the names that they have here.
_NAMES = (
    (re.compile(r"^response_format\.json_schema"), "text.format"),
    (re.compile(r"^response_format"), "text.format"),
    (re.compile(r"^(tools\[\d+\])\.function"), r"\1"),
)


class NotKept(InvalidRequest):
    """Never made, not stored, deleted, or gone for room."""

    status = 404


async def create_response(request: Request) -> Response:
    """A whole response, or with `stream` its events as they come."""
    asked = await read_body(request, ResponseRequest)
    store = _store(request)
    conversation = read(asked, store)

    def keep(response: dict[str, Any]) -> None:
        if asked.store is not False:
            said = [msgspec.convert(item, Item) for item in response["output"]]
            store.put(Kept(response, [*conversation, *said]))

    try:
        answer = wanted(as_chat(asked, conversation), "input")
        return await respond(request, answer, lambda model: ResponseLayout(model, asked, keep))
    except InvalidRequest as error:
        raise params.in_own_words(error, _NAMES) from None


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


def as_chat(asked: ResponseRequest, conversation: Sequence[Item]) -> ChatRequest:
    """The same as a chat's request. Raises InvalidRequest for what no chat can be asked."""
    for name in _UNSUPPORTED:
        if getattr(asked, name):
            raise InvalidRequest(f"{name} is not supported by this version", param=name)
    if asked.n not in (None, 1):
        raise InvalidRequest("n: a response is one answer", param="n")
    shared = {name: getattr(asked, name) for name in Sampling.__struct_fields__}
    format = _response_format(asked)
    return ChatRequest(
        messages=params.with_system(asked.instructions, items.messages(conversation)),
        max_completion_tokens=asked.max_output_tokens,
        chat_template_kwargs=_thinking(asked),
        tools=[_tool(tool, at) for at, tool in enumerate(asked.tools or [])] or None,
        tool_choice=_tool_choice(asked),
        parallel_tool_calls=asked.parallel_tool_calls,
        **shared | ({"response_format": format} if format else {}),
    )


def _response_format(asked: ResponseRequest) -> ResponseFormat | None:
    format = asked.text and asked.text.format
    if not format:
        return None
    schema = JsonSchema(format.schema) if format.type == "json_schema" else None
    return ResponseFormat(format.type, schema)


def _thinking(asked: ResponseRequest) -> TemplateOptions | None:
    effort = asked.reasoning and asked.reasoning.effort
    if not effort:
        return None
    if effort in _NO_THOUGHTS:
        return TemplateOptions(enable_thinking=False)
    return TemplateOptions(reasoning_effort=effort)


def _tool(tool: FunctionTool, at: int) -> Tool:
    """A function as chats write it."""
    path = f"tools[{at}]"
    if tool.type != "function":
        raise InvalidRequest(
            f"{path}.type: only functions can be called here, not {tool.type[:40]!r}",
            param=f"{path}.type",
        )
    if tool.name is None:
        raise InvalidRequest(f"{path}.name: a function needs one", param=f"{path}.name")
    return Tool("function", Function(tool.name, tool.description, tool.parameters, tool.strict))


def _tool_choice(asked: ResponseRequest) -> Any:
    """The choice as chats write it."""
    choice = asked.tool_choice
    if not isinstance(choice, ToolChoice):
        return choice
    if choice.type == "function":
        return chat.ToolChoice("function", chat.FunctionName(choice.name or ""))
    names = [chat.FunctionName(tool.name or "") for tool in choice.tools or ()]
    allowed = chat.AllowedTools(choice.mode or "auto", [chat.AllowedTool(name) for name in names])
    return chat.ToolChoice("allowed_tools", allowed_tools=allowed)


def _store(request: Request) -> ResponseStore:
    state: State = request.app.state.portable
    return state.responses
