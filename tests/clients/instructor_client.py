# /// script
# dependencies = ["instructor==1.17.0"]
# ///
"""instructor: objects of pydantic in each of its ways to get them. Arguments: BASE_URL KEY."""

import asyncio
import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel

base_url, api_key = sys.argv[1:]
MODEL = "SmolLM2-135M-Instruct"
ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Which colour is the sky?"}],
    "max_tokens": 64,
    "temperature": 0,
}


class Colour(BaseModel):
    of: Literal["red", "blue"]
    sure: bool


def client(mode: instructor.Mode, key: str = api_key) -> instructor.Instructor:
    made = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    return instructor.from_openai(made, mode=mode)


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
    found = client(mode).create(response_model=Colour, max_retries=0, **ASKED)
    assert isinstance(found, Colour)
    print(mode.value)

partial = list(client(instructor.Mode.JSON_SCHEMA).create_partial(response_model=Colour, **ASKED))
assert len(partial) > 1 and isinstance(partial[-1].sure, bool)
print("stream")


async def together() -> list[Colour]:
    made = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
    several = instructor.from_openai(made, mode=instructor.Mode.JSON_SCHEMA)
    asked = [several.create(response_model=Colour, **ASKED) for _ in range(3)]
    return list(await asyncio.gather(*asked))


assert len({colour.of for colour in asyncio.run(together())}) == 1
print("async")

for key, fields, kind in (
    (api_key, {"temperature": 7}, "BadRequestError"),
    (api_key, {"model": "no-such-model"}, "NotFoundError"),
    ("wrong", {}, "AuthenticationError"),
):
    try:
        client(instructor.Mode.TOOLS, key).create(
            response_model=Colour, max_retries=0, **{**ASKED, **fields}
        )
    except Exception as error:  # instructor wraps what the client raises
        assert kind in repr([error, error.__cause__]) or kind in str(error.args), repr(error)
    else:
        raise AssertionError(kind)
print("errors")
