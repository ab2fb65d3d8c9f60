"""What the operator sees: the log, the metrics, the configuration file, the systemd unit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import CHAT, Server, asking, cli, events, model_file, running, server, until
from typer.testing import CliRunner

from portable.cli import app
from portable.cli.service import quoted, unit
from portable.engine.sequence import Usage
from portable.server.metrics import Totals

__all__ = ["server"]
SECRET = "the owl hunts at night"


def samples(server: Server) -> dict[str, dict[str, float]]:
    """Values by name and labels."""
    reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_metrics_count_what_was_done(server: Server) -> None:
    name = "SmolLM2-135M-Instruct"
    before = samples(server)
    chunks = events(server.post(CHAT, asking(stream=True, max_tokens=5)))
    server.chat(max_tokens=5)
    server.chat(temperature=9)
    server.get("/nowhere/at/all")
    usage = chunks[-1]["usage"]
    after = samples(server)

    def grown(metric: str, labels: str) -> float:
        return after[metric][labels] - before.get(metric, {}).get(labels, 0)

    assert grown("portable_requests_total", f"model={name},route={CHAT},status=200") == 2
    assert grown("portable_requests_total", f"model=,route={CHAT},status=400") == 1
    assert grown("portable_requests_total", "model=,route=none,status=404") == 1
    generated = grown("portable_generated_tokens_total", f"model={name}")
    assert generated == 2 * usage["completion_tokens"] == 10
    found, computed = (
        grown("portable_prompt_tokens_total", f"cached={cached},model={name}")
        for cached in ("true", "false")
    )
    assert found + computed == 2 * usage["prompt_tokens"] and found > 0
    assert grown("portable_ttft_seconds_count", f"model={name}") == 2
    assert grown("portable_inter_token_seconds_count", f"model={name}") >= 4
    assert grown("portable_request_seconds_count", f"route={CHAT}") == 3
    assert after["portable_model_loaded"] == {f"model={name}": 1}
    assert after["portable_rss_bytes"][f"model={name}"] > 50e6
    until(lambda: 0 < samples(server)["portable_kv_used_ratio"][f"model={name}"] <= 1, 3)


def test_a_client_that_leaves_is_counted_as_such(server: Server) -> None:
    body = asking("Count to a thousand.", stream=True, max_tokens=1500)
    with server.client.stream("POST", server.url + CHAT, json=body) as it:
        next(it.iter_lines())
    name = f"model=SmolLM2-135M-Instruct,route={CHAT},status=499"
    until(lambda: samples(server)["portable_requests_total"].get(name) == 1, 5)


def test_each_request_is_one_line_with_its_id_and_no_prompt(server: Server) -> None:
    server.chat(SECRET, max_tokens=3)
    reply = server.post(CHAT, asking(max_tokens=3), headers={"x-request-id": "mine-7"})
    assert reply.headers["x-request-id"] == "mine-7"
    until(lambda: "mine-7" in server.log)
    (line,) = [line for line in server.log.splitlines() if "mine-7" in line]
    for part in (f"POST {CHAT}", "status=200", "generated_tokens=3", "tokens_per_second="):
        assert part in line
    assert SECRET not in server.log
    assert "GET /health" not in server.log
    hostile = server.post(CHAT, asking(), headers={"x-request-id": "a b;\tc"})
    assert re.fullmatch(r"req-[0-9a-f]{32}", hostile.headers["x-request-id"])


def test_a_log_in_json_with_prompts_if_asked_for() -> None:
    with running(log_format="json", log_prompts=True, log_seconds=0.2) as server:
        server.chat(SECRET, max_tokens=2)
        until(lambda: "num_samples" in server.log)
        server.process.terminate()
        assert server.ended() == 0
        lines: list[dict[str, Any]] = [json.loads(line) for line in server.log.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    (access,) = [line for line in lines if line["logger"] == "portable.access"]
    assert access["status"] == 200 and access["generated_tokens"] == 2
    assert any(SECRET in line["message"] for line in lines)
    assert any("Application startup complete." in line["message"] for line in lines)


def test_the_statistics_line_has_the_keys_of_ms_swift() -> None:
    totals = Totals()
    assert totals.take() is None
    totals.add(Usage(10, 0, 5))
    totals.add(Usage(20, 0, 7))
    time.sleep(0.01)
    done = totals.take()
    assert done is not None
    names = ["num_prompt_tokens", "num_generated_tokens", "num_samples", "runtime", "samples/s"]
    assert list(done) == [*names, "tokens/s"]
    assert [done[name] for name in names[:3]] == [30, 12, 2]
    assert totals.take() is None


def test_a_configuration_file_gives_the_flags(tmp_path: Path) -> None:
    other = tmp_path / "Other.gguf"
    shutil.copy(model_file(), other)
    settings = tmp_path / "portable.toml"
    settings.write_text(
        f"""
        model = [{json.dumps(str(model_file()))}, {json.dumps(str(other))}]
        served-model-name = "from-the-file"
        port = 0
        threads = 1
        context = 256
        load-mode = "none"
        api_key = ["one", "two"]
        """
    )
    with cli("--config", str(settings), "--context", "512") as server:
        until(server.is_ready, 60)
        key = {"authorization": "Bearer two"}
        listed = server.get("/v1/models", headers=key).json()["data"]
        assert [m["id"] for m in listed] == ["from-the-file", "Other"]
        assert listed[0]["meta"]["n_ctx"] == 512
        assert server.get("/v1/models").status_code == 401
        assert server.get("/metrics").status_code == 401


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 8000", "'prot' is no flag (did you mean 'port'?)"),
        ("port = ", "is not valid TOML"),
        ("[server]\nport = 1", "'server' is no flag"),
        ('port = "many"', "port"),
        (None, "No such file"),
    ],
)
def test_a_wrong_configuration_file_is_told(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "portable.toml"
    if text is not None:
        path.write_text(text)
    result = CliRunner().invoke(app, ["serve", "--config", str(path)])
    assert result.exit_code == 2 and said in result.output.replace("\n", " ")


def test_the_unit_runs_this_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "模型 100%.gguf").touch()
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path / "a home"))
    text = unit(["模型 100%.gguf", "--port", "8001", "--cors", "https://a$b"])
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    path = str(tmp_path / "模型 100%%.gguf")
    assert (
        command
        == f'{sys.executable} -m portable.cli serve "{path}" --port 8001 --cors "https://a$$b"'
    )
    assert f'Environment="PORTABLE_HOME={tmp_path}/a home"' in text
    if verifier := shutil.which("systemd-analyze"):
        file = tmp_path / "portable.service"
        file.write_text(text)
        done = subprocess.run(
            [verifier, "verify", "--user", str(file)], capture_output=True, text=True
        )
        assert "portable.service" not in done.stderr, done.stderr


def test_words_are_quoted_as_systemd_reads_them() -> None:
    assert quoted("plain-1.gguf") == "plain-1.gguf"
    assert quoted('a "b" \\ %h $HOME') == '"a \\"b\\" \\\\ %%h $$HOME"'
