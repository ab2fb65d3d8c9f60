"""The tutorial that this replaces, verbatim: its curl command and its openai script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from serving import CHAT, Server, server

__all__ = ["server"]

CURL = """curl http://localhost:8000/v1/chat/completions \\
-H "Content-Type: application/json" \\
-d '{
"model": "Qwen2.5-0.5B-Instruct", # 与model中目录名称保持一致
"messages": [{"role": "user", "content": "我有十二指肠溃疡，请问我需要吃什么药物？"}],
"max_tokens": 1024,
"temperature": 0
}'"""

OPENAI = """
from openai import OpenAI

client = OpenAI(
    api_key='EMPTY',
    base_url='http://localhost:8000/v1',
)

# 获取模型 ID
model_type = client.models.list().data[0].id
print(f'model_type: {model_type}')

messages = []

for query in ['你是谁？', "what's your name?", '你是谁研发的？']:
   messages.append({
       'role': 'user',
       'content': query
   })
   resp = client.chat.completions.create(
       model=model_type,
       messages=messages,
       seed=42)
   response = resp.choices[0].message.content
   print(f'query: {query}')
   print(f'response: {response}')
   messages.append({'role': 'assistant', 'content': response})

# 流式输出
for query in ['78654+657=?', '晚上睡不着觉怎么办']:
    messages.append({'role': 'user', 'content': query})

    stream_resp = client.chat.completions.create(
        model=model_type,
        messages=messages,
        stream=True,
        seed=42,
    )

    print(f'\\nquery: {query}')
    print('response: ', end='')
    response = ''
    # 逐个 chunk 处理并打印
    for chunk in stream_resp:
        response += chunk.choices[0].delta.content
        print(chunk.choices[0].delta.content, end='', flush=True)
    messages.append({'role': 'assistant', 'content': response})
"""


def shell(command: str, server: Server) -> Any:
    """What the real curl prints; only the port is another."""
    command = command.replace("localhost:8000", f"localhost:{server.port}")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_curl_command_is_refused_by_line_column_and_cause(server: Server) -> None:
    error = shell(CURL, server)["error"]
    assert error["type"] == "invalid_request_error"
    assert "line 2 column 35" in error["message"]
    assert "JSON has no comments: remove `# 与model中目录名称保持一致`" in error["message"]


def test_the_curl_command_without_its_comment_is_answered(server: Server) -> None:
    body = re.sub(" #.*", "", CURL).replace("Qwen2.5-0.5B-Instruct", "SmolLM2-135M-Instruct")
    body = body.replace("1024", "8")  # only to save time
    answer = shell(body, server)
    assert {"model", "choices", "usage", "id", "object", "created"} <= set(answer)
    assert set(answer["choices"][0]["message"]) == {"role", "content", "tool_calls"}
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(answer["usage"])


def test_curl_sends_json_under_another_name(server: Server) -> None:
    """`curl -d` without the header says it is a form."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}'
    assert server.post(CHAT, body, headers=form).status_code == 200
    assert server.post(CHAT, body).status_code == 200


def test_the_openai_script_runs_as_it_is(server: Server, tmp_path: Path) -> None:
    """Only the port is another; the server's default length saves time."""
    script = tmp_path / "script.py"
    asked = OPENAI.replace("localhost:8000", f"localhost:{server.port}")
    script.write_text(asked.replace("seed=42", "max_tokens=6, seed=42"), encoding="utf-8")
    command = [sys.executable, "-P", "-X", "utf8", str(script)]
    outputs = [
        subprocess.run(command, capture_output=True, text=True, timeout=120) for _ in range(2)
    ]
    for done in outputs:
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(
            "model_type: SmolLM2-135M-Instruct\nquery: 你是谁？\nresponse: "
        )
        assert done.stdout.count("response: ") == 5
    assert outputs[0].stdout == outputs[1].stdout, "seed=42 twice is the same text"
