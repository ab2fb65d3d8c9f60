# /// script
# dependencies = ["ms-swift==3.12.6", "torch"]
# ///
"""ms-swift's InferClient and InferStats, as the tutorial uses them. Arguments: BASE_URL KEY."""

import sys
from urllib.parse import urlsplit

from requests.exceptions import HTTPError
from swift.llm import InferClient, InferRequest, RequestConfig
from swift.plugin import InferStats

base_url, api_key = sys.argv[1:]
engine = InferClient(host="localhost", port=urlsplit(base_url).port, api_key=api_key)
assert engine.models == ["SmolLM2-135M-Instruct"]
print("models")
metric = InferStats()

config = RequestConfig(max_tokens=8, temperature=0)
for query in ["你是谁？", "what's your name?", "你是谁研发的？"]:
    asked = [InferRequest(messages=[{"role": "user", "content": query}])]
    (response,) = engine.infer(asked, config, metrics=[metric])
    assert response.choices[0].message.content
assert metric.compute()["num_samples"] == 3
metric.reset()
print("chat")

config = RequestConfig(max_tokens=8, temperature=0, logprobs=True, top_logprobs=2, n=2)
asked = [InferRequest(messages=[{"role": "user", "content": "Say hi."}])] * 3
for answer in engine.infer(asked, config):
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs["content"][0]["top_logprobs"]) == 2
print("several")

try:
    engine.infer(asked[:1], RequestConfig(temperature=7))
except HTTPError as error:
    assert "temperature" in str(error)
    print("errors")

# Last: its event loop may still be running when a stream has ended, and then it asks no more.
config = RequestConfig(max_tokens=8, temperature=0, stream=True)
for query in ["78654+657=?", "晚上睡不着觉怎么办"]:
    asked = [InferRequest(messages=[{"role": "user", "content": query}])]
    (stream,) = engine.infer(asked, config, metrics=[metric])
    assert "".join(chunk.choices[0].delta.content for chunk in stream if chunk is not None)
counted = metric.compute()
assert counted["num_samples"] == 2 and 2 <= counted["num_generated_tokens"] <= 16, counted
print("stream")
