# /// script
# dependencies = [
#   "llama-index-llms-openai-like==0.8.1",
#   "llama-index-embeddings-openai-like==0.4.0",
# ]
# ///
"""llama-index with its classes for OpenAI-like servers. Arguments: BASE_URL KEY."""

import sys
from typing import Literal

import openai
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

base_url, api_key = sys.argv[1:]
MODEL = "SmolLM2-135M-Instruct"
ASKED = [ChatMessage(role="user", content="Say hi.")]


class Colour(BaseModel):
    of: Literal["red", "blue"]
    sure: bool


def weather(unit: Literal["C", "F"]) -> str:
    """How the weather is."""
    return f"20 {unit}"


def model(**fields: object) -> OpenAILike:
    asked = {"model": MODEL, "api_base": base_url, "api_key": api_key, "temperature": 0}
    known = {"is_chat_model": True, "is_function_calling_model": True, "max_retries": 0}
    return OpenAILike(**{**asked, **known, "max_tokens": 64, "context_window": 2048, **fields})


answer = model().chat(ASKED).message.content
assert answer
print("chat")

*_, last = model().stream_chat(ASKED)
assert last.message.content == answer
print("stream")

*_, last = model(is_chat_model=False).stream_complete("Once upon a time")
assert last.text == model(is_chat_model=False).complete("Once upon a time").text
print("completions")

tool = FunctionTool.from_defaults(weather)
called = model().chat_with_tools([tool], user_msg="How is the weather?", tool_required=True)
(call,) = model().get_tool_calls_from_response(called)
assert str(tool(**call.tool_kwargs)) in ("20 C", "20 F")
print("tools")

found = model().structured_predict(Colour, PromptTemplate("Is the sky blue?"))
assert isinstance(found, Colour)
print("structured")

embedding = OpenAILikeEmbedding(model_name=MODEL, api_base=base_url, api_key=api_key)
assert [len(v) for v in embedding.get_text_embedding_batch(["red", "blue"])] == [576, 576]
print("embeddings")

for fields, kind in (
    ({"temperature": 2.0, "additional_kwargs": {"top_p": 7}}, openai.BadRequestError),
    ({"model": "no-such-model"}, openai.NotFoundError),
    ({"api_key": "wrong"}, openai.AuthenticationError),
):
    try:
        model(**fields).chat(ASKED)
    except kind:
        continue
    raise AssertionError(kind)
print("errors")
