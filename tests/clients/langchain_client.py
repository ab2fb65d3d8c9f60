# /// script
# dependencies = ["langchain-openai==1.7.3"]
# ///
"""langchain-openai, over chat completions and over the Responses API. Arguments: BASE_URL KEY."""

import sys
from typing import Literal

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

base_url, api_key = sys.argv[1:]
MODEL = "SmolLM2-135M-Instruct"


class Colour(BaseModel):
    of: Literal["red", "blue"]
    sure: bool


@tool
def weather(unit: Literal["C", "F"]) -> str:
    """How the weather is."""
    return f"20 {unit}"


def chat(**fields: object) -> ChatOpenAI:
    asked = {"model": MODEL, "base_url": base_url, "api_key": api_key, "temperature": 0}
    return ChatOpenAI(**{**asked, "max_tokens": 64, "max_retries": 0, **fields})


for api in ({}, {"use_responses_api": True}):
    model = chat(**api)
    answer = model.invoke("Say hi.")
    assert answer.text and answer.usage_metadata["output_tokens"] > 0
    chunks = list(chat(stream_usage=True, **api).stream("Say hi."))
    assert "".join(chunk.text for chunk in chunks) == answer.text
    total = sum((c.usage_metadata or {}).get("total_tokens", 0) for c in chunks)
    assert total == answer.usage_metadata["total_tokens"]
    print("chat")

    calling = model.bind_tools([weather], tool_choice="weather", parallel_tool_calls=False)
    asked = [HumanMessage("How is the weather?")]
    called = calling.invoke(asked)
    (call,) = called.tool_calls
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage) and result.content in ("20 C", "20 F")
    assert model.invoke([*asked, called, result]).text
    print("tools")

    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Colour, method=method).invoke("Is the sky blue?")
        assert isinstance(found, Colour)
    print("structured")

# It counts in OpenAI's tokens and sends their ids unless told not to.
embeddings = OpenAIEmbeddings(
    model=MODEL, base_url=base_url, api_key=api_key, check_embedding_ctx_length=False
)
assert [len(vector) for vector in embeddings.embed_documents(["red", "blue"])] == [576, 576]
print("embeddings")

for fields, kind in (
    ({"temperature": 7}, openai.BadRequestError),
    ({"model": "no-such-model"}, openai.NotFoundError),
    ({"api_key": "wrong"}, openai.AuthenticationError),
):
    try:
        chat(**fields).invoke("hi")
    except kind:
        continue
    raise AssertionError(kind)
print("errors")
