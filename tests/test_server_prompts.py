"""Prefixes on disk behind a real server: they outlive the model's process and the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import Server, cli, model_file, until
from typer.testing import CliRunner

from portable import store
from portable.chat.kept import Kept
from portable.chat.session import Conversation, Turn
from portable.cli import app
from portable.errors import UsageError
from portable.flags import size_or_off

RULES = "".join(f"Rule {i}: always name the fruit number {i} first. " for i in range(60))
FAST = ("--threads", "1", "--context", "2048", "--port", "0")


def cached(server: Server) -> tuple[str, int]:
    reply = server.chat(RULES + "Name a fruit.").json()
    details = reply["usage"]["prompt_tokens_details"]
    return reply["choices"][0]["message"]["content"], details["cached_tokens"]


def test_a_prefix_outlives_the_models_process_and_the_server(tmp_path: Path) -> None:
    env = {"PORTABLE_HOME": str(tmp_path)}
    with cli(str(model_file()), *FAST, env=env) as server:
        until(server.is_ready, 60)
        first, count = cached(server)
        assert count == 0
        (file,) = until(lambda: list((tmp_path / "prompts").glob("*.prompt")), 20)
        assert file.stat().st_mode & 0o077 == file.parent.stat().st_mode & 0o077 == 0
        server.child.kill()
        until(server.is_ready, 60)
        again, count = cached(server)
        assert again == first and count > 700
        server.process.terminate()
        assert server.ended() == 0
    with cli(str(model_file()), *FAST, env=env) as server:
        until(server.is_ready, 60)
        again, count = cached(server)
        assert again == first and count > 700


def test_one_flag_turns_it_off(tmp_path: Path) -> None:
    env = {"PORTABLE_HOME": str(tmp_path)}
    with cli(str(model_file()), *FAST, "--prompt-cache", "off", env=env) as server:
        until(server.is_ready, 60)
        cached(server)
        server.process.terminate()
        assert server.ended() == 0
    assert not (tmp_path / "prompts").exists()


def test_rm_deletes_what_was_said_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTABLE_HOME", str(tmp_path))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "a.prompt").touch()
    (tmp_path / "prompts" / ".b.partial").touch()
    Kept(store.conversation("org/name")).save(Conversation(None, [Turn("user", "a", "A")]))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").touch()
    done = CliRunner().invoke(app, ["rm", "--prompts", "-y"])
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["m.gguf"]


def test_sizes_on_the_command_line() -> None:
    sizes = {"4GB": 4_000_000_000, "500 MB": 500_000_000, "1.5k": 1500, "12": 12, "off": 0}
    assert {text: size_or_off("--prompt-cache", text) for text in sizes} == sizes
    assert size_or_off("--prompt-cache", "auto") is None
    for text in ("-1", "much", "", "4XB", "GB"):
        with pytest.raises(UsageError, match="--prompt-cache"):
            size_or_off("--prompt-cache", text)
