# /// script
# dependencies = ["litellm[mcp]==1.106.2"]
# ///
"""litellm: OpenAI's and Anthropic's way to one server. Arguments: BASE_URL KEY."""

import json
import os
import sys
from typing import Literal

# Its table of prices comes from the internet otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True
base_url, api_key = sys.argv[1:]
MODEL = "SmolLM2-135M-Instruct"
OPENAI = {"model": f"openai/{MODEL}", "api_base": base_url, "api_key": api_key}
ANTHROPIC = {
    "model": f"anthropic/{MODEL}",
    "api_base": base_url.removesuffix("/v1"),
    "api_key": api_key,
}
ASKED = {
    "messages": [{"role": "user", "content": "Say hi."}],
    "max_tokens": 64,
    "temperature": 0,
    "num_retries": 0,
}
WEATHER = {
    "name": "weather",
    "description": "How the weather is",
    "parameters": {
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}},
        "required": ["unit"],
        "additionalProperties": False,
    },
}
TOOLS = {
    "tools": [{"type": "function", "function": WEATHER}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
}


class Colour(BaseModel):
    of: Literal["red", "blue"]
    sure: bool


for api in (OPENAI, ANTHROPIC):
    answer = litellm.completion(**api, **ASKED)
    text = answer.choices[0].message.content
    assert text and answer.usage.completion_tokens > 0
    chunks = list(litellm.completion(**api, **ASKED, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text
    assert chunks[-1].choices[0].finish_reason
    print("chat")

    whole = litellm.completion(**api, **ASKED, **TOOLS)
    streamed = litellm.stream_chunk_builder(
        list(litellm.completion(**api, **ASKED, **TOOLS, stream=True))
    )
    for told in (whole, streamed):
        (call,) = told.choices[0].message.tool_calls
        assert json.loads(call.function.arguments)["unit"] in ("C", "F")
        assert told.choices[0].finish_reason == "tool_calls"
    print("tools")

    found = litellm.completion(**api, **ASKED, response_format=Colour)
    assert Colour.model_validate_json(found.choices[0].message.content)
    print("structured")

    for fields, kind in (
        ({"temperature": 7}, litellm.BadRequestError),
        ({"model": api["model"].split("/")[0] + "/no-such-model"}, litellm.NotFoundError),
        ({"api_key": "wrong"}, litellm.AuthenticationError),
    ):
        try:
            litellm.completion(**{**api, **ASKED, **fields})
        except kind:
            continue
        raise AssertionError(kind)
    print("errors")

vectors = litellm.embedding(**OPENAI, input=["red", "blue"], encoding_format="float")
assert [len(item["embedding"]) for item in vectors.data] == [576, 576]
print("embeddings")
ranked = litellm.responses(**OPENAI, input="Say hi.", max_output_tokens=8)
assert ranked.output[0].content[0].text
print("responses")
