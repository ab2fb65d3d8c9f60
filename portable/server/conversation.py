"""A chat's request -> the conversation that it asks to go on with; knows no HTTP."""

from __future__ import annotations

from typing import Any

from portable.engine.protocol import Begun
from portable.errors import InvalidRequest
from portable.server import params, tools
from portable.server.wanted import Conversation
from portable.server.wire.chat import ChatRequest


def conversation(asked: ChatRequest) -> Conversation:
    """Raises InvalidRequest."""
    messages = params.chat_messages(asked)
    begun = _begun(asked, messages[-1])
    if begun and len(messages) == 1:
        raise InvalidRequest("messages: there is nothing to answer", param="messages")
    budget = asked.thinking_budget_tokens
    return Conversation(
        messages[:-1] if begun else messages,
        _template_options(asked),
        tools=tools.toolbox(asked),
        reasoning_format=asked.reasoning_format or "auto",
        thinking_budget=None if budget == -1 else budget,
        begun=begun,
    )


def _begun(asked: ChatRequest, last: dict[str, Any]) -> Begun | None:
    """The answer's beginning, if the last message is one: as llama-server and vLLM have it."""
    goes_on, new = asked.continue_final_message, asked.add_generation_prompt
    if goes_on and new:
        raise InvalidRequest(
            "continue_final_message: not together with add_generation_prompt",
            param="continue_final_message",
        )
    is_begun = last["role"] == "assistant" and "tool_calls" not in last
    if goes_on and not is_begun:
        raise InvalidRequest(
            "continue_final_message: the last message is no answer to go on with",
            param="continue_final_message",
        )
    if not is_begun or goes_on is False or new:
        return None
    return Begun(last["content"], last.get("reasoning_content", ""))


def _template_options(asked: ChatRequest) -> dict[str, Any]:
    """What the template may be told beside the messages."""
    given = asked.chat_template_kwargs
    options = {} if given is None else {f: getattr(given, f) for f in given.__struct_fields__}
    options = {name: value for name, value in options.items() if value is not None}
    thinks = asked.enable_thinking
    if (effort := asked.reasoning_effort) == "none":
        thinks = False
    elif effort:
        options.setdefault("reasoning_effort", effort)
    if thinks is not None:  # templates have two names for it
        options.setdefault("enable_thinking", thinks)
    if "enable_thinking" in options:
        options.setdefault("thinking", options["enable_thinking"])
    if asked.add_generation_prompt is False:
        options["add_generation_prompt"] = False
    return options
