"""The chat as a process with the real SmolLM2: through a pseudo-terminal and through pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
from terminal import smollm2

pexpect = pytest.importorskip("pexpect")
if not smollm2().exists():
    pytest.skip("the extra `demo` is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[1]
FRUITS = "List three fruits."
LONG = "Write a very long story about a dog."
RULE = "-" * 50


def command(asked: dict[str, Any]) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("terminal.py")), json.dumps(asked)]


def environment(state: Path, **more: str) -> dict[str, str]:
    quiet = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    return {**quiet, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(state), **more}


class Chat:
    """A chat on a pseudo-terminal of 24 lines by 80 columns, and what its screen shows."""

    def __init__(self, state: Path, term: str, asked: dict[str, Any]) -> None:
        env = environment(state, TERM=term)
        argv = command(asked)
        self.child = pexpect.spawn(
            argv[0], argv[1:], env=env, encoding="utf-8", timeout=60, dimensions=(24, 80)
        )
        self.raw = ""
        self.child.logfile_read = self
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.Stream(self._screen)

    def write(self, text: str) -> None:
        self.raw += text
        self._stream.feed(text)

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[str]:
        """The screen's lines; a wide character takes two columns, of which one is empty."""
        return [line.rstrip() for line in self._screen.display]

    def wait(self, text: str) -> None:
        self.child.expect_exact(text)

    def say(self, line: str, then: str = "<<< ") -> None:
        """Type a line and wait for what comes after it."""
        self.child.sendline(line)
        self.wait(then)

    def shows(self, text: str) -> bool:
        """Whether a line of the screen becomes exactly `text`."""
        for _ in range(100):
            if text in self.lines:
                return True
            self.child.expect([pexpect.TIMEOUT, r".+"], timeout=0.1)
        return False

    def end(self) -> int:
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert "Traceback" not in self.raw
        return int(self.child.exitstatus)


Start = Callable[..., Chat]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    chats: list[Chat] = []

    def begin(term: str = "xterm-256color", **asked: Any) -> Chat:
        chats.append(Chat(tmp_path, term, asked))
        chats[-1].wait("Input `clear` to clear the history.")
        chats[-1].wait("<<< ")
        return chats[-1]

    yield begin
    for chat in chats:
        chat.child.close(force=True)


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_session(start: Start, term: str, tmp_path: Path) -> None:
    result = tmp_path / "result.jsonl"
    chat = start(term, result_path=str(result), params={"max_tokens": 40})
    for line in ("`exit` or `quit`", "`multi-line`", "`reset-system`", "all 31 layers on CPU"):
        assert line in chat.raw
    chat.child.sendline(FRUITS)
    chat.wait("Apple")
    chat.wait(f"\r\n{RULE}\r\n")
    chat.wait("tok/s")
    chat.wait("<<< ")
    chat.say("")
    chat.say("multi-line", "<<<[M] ")
    chat.child.sendline("Please say")
    chat.child.sendline("hello. #")
    chat.wait(RULE)
    chat.wait("<<<[M] ")
    chat.say("single-line#")
    chat.say("clear")
    chat.say("reset-system", "<<<[S] ")
    chat.say("You are a cat.")
    chat.say("Who are you?", RULE)
    chat.wait("<<< ")
    chat.child.sendline(" EXIT ")
    assert chat.end() == 0
    turns = [json.loads(line)["messages"] for line in result.read_text("utf-8").splitlines()]
    assert [len(messages) for messages in turns] == [2, 4, 3]
    assert turns[1][2]["content"] == "Please say\nhello. "
    assert turns[2][0] == {"role": "system", "content": "You are a cat."}


def test_a_conversation_goes_on_another_day(start: Start, tmp_path: Path) -> None:
    system = "".join(f"Rule {i}: name fruit number {i} first. " for i in range(40))
    kept = {
        "keep": str(tmp_path / "chats" / "model.json"),
        "config": {"prompt_cache": str(tmp_path / "prompts")},
        "params": {"max_tokens": 12},
    }
    first = start(system=system, **kept)
    first.say(FRUITS, RULE)
    first.wait("<<< ")
    first.child.sendline("exit")
    assert first.end() == 0
    again = start(resume=True, **kept)
    assert "Going on after 1 turn. The last one:\r\n> " + FRUITS + "\r\n" in again.raw
    again.say("And now three trees.", RULE)
    again.child.expect(r"prompt (\d+) tokens \((\d+) cached\)")
    read, cached = map(int, again.child.match.groups())
    assert cached > 400 and read - cached < 60, "only what is new was read"
    again.wait("<<< ")
    again.say("/clear")
    again.child.sendline("exit")
    assert again.end() == 0
    assert not (tmp_path / "chats" / "model.json").exists()
    new = start(resume=True, **kept)
    assert "There is no conversation with this model to go on with" in new.raw


def test_a_dumb_terminal_gets_no_escape_sequence(start: Start) -> None:
    chat = start("dumb")
    chat.say(FRUITS, RULE)
    chat.wait("<<< ")
    chat.child.sendeof()
    assert chat.end() == 0
    assert "\x1b" not in chat.raw


def test_ctrl_c_stops_an_answer_and_the_session_goes_on(start: Start, tmp_path: Path) -> None:
    chat = start(result_path=str(tmp_path / "r"))
    chat.child.sendline(LONG)
    chat.wait("Once")
    chat.child.sendintr()
    began = time.monotonic()
    chat.wait(" [stopped]\r\n" + RULE)
    chat.wait("<<< ")
    assert time.monotonic() - began < 5
    chat.say(FRUITS, RULE)
    chat.wait("<<< ")
    chat.child.sendintr()
    chat.wait("Press Ctrl-C again")
    chat.wait("<<< ")
    chat.child.sendintr()
    assert chat.end() == 130
    last = json.loads((tmp_path / "r").read_text("utf-8").splitlines()[-1])
    assert last["messages"][1]["content"].startswith("Once")


def test_ctrl_c_stops_the_reading_of_a_long_prompt(start: Start) -> None:
    chat = start()
    pasted = "The quick brown fox jumps over the lazy dog. " * 600
    chat.child.send(f"\x1b[200~{pasted}\x1b[201~")
    time.sleep(1)
    chat.child.sendline("")
    chat.wait("\x1b[?2004l")
    time.sleep(0.7)
    chat.child.sendintr()
    began = time.monotonic()
    chat.wait("[stopped]")
    chat.wait("<<< ")
    assert time.monotonic() - began < 5
    chat.child.sendeof()
    assert chat.end() == 0


def test_backspace_removes_one_whole_chinese_character(start: Start) -> None:
    chat = start()
    chat.child.send("你好")
    assert chat.shows("<<< 你好")
    chat.child.send("\x7f")
    assert chat.shows("<<< 你")
    chat.child.send("\x15")
    chat.child.sendeof()
    assert chat.end() == 0


def test_a_paste_is_one_message_and_is_remembered(start: Start, tmp_path: Path) -> None:
    chat = start(result_path=str(tmp_path / "r"), params={"max_tokens": 2})
    chat.child.send("\x1b[200~first\nexit\nthird\x1b[201~")
    assert chat.shows("third")
    chat.say("", RULE)
    chat.wait("The answer is cut: the limit of 2 tokens was reached.")
    chat.wait("<<< ")
    chat.child.sendeof()
    assert chat.end() == 0
    line = json.loads((tmp_path / "r").read_text("utf-8"))
    assert line["messages"][0]["content"] == "first\nexit\nthird"
    (history,) = tmp_path.rglob("history")
    assert "+exit\n" in history.read_text("utf-8")
    assert history.stat().st_mode & 0o077 == 0


def test_a_full_context_leaves_out_the_oldest_turns_and_says_so(start: Start) -> None:
    chat = start(config={"context": 256, "slots": 1}, params={"max_tokens": 60})
    for _ in range(6):
        chat.say(LONG, RULE)
        if chat.child.expect(["left out: the conversation", "tok/s"]) == 0:
            break
        chat.wait("<<< ")
    else:
        pytest.fail("nothing was left out")
    chat.wait("<<< ")
    chat.say("word " * 300, "error: the prompt has")
    chat.wait("<<< ")
    chat.say("exit", "\n")
    assert chat.end() == 0


def pipe(
    asked: dict[str, Any], stdin: str, state: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    env = environment(state, **more)
    return subprocess.run(
        command(asked), input=stdin, env=env, capture_output=True, encoding="utf-8", timeout=120
    )


def test_a_piped_prompt_gets_only_the_answer_on_stdout(tmp_path: Path) -> None:
    by_argument = pipe({"prompt": FRUITS}, "", tmp_path)
    by_pipe = pipe({"stream": False}, FRUITS + "\n", tmp_path)
    assert by_argument.returncode == by_pipe.returncode == 0
    assert by_argument.stdout == by_pipe.stdout
    assert "Apple" in by_pipe.stdout and by_pipe.stdout.endswith("s\n")
    assert "<<<" not in by_pipe.stdout + by_pipe.stderr and "\x1b" not in by_pipe.stdout
    place, figures = by_pipe.stderr.splitlines()
    assert "31 layers on CPU" in place and "tok/s" in figures
    assert pipe({"quiet": True}, FRUITS + "\n", tmp_path).stderr == ""


def test_stdin_comes_before_the_prompt_and_figures_go_to_stderr(tmp_path: Path) -> None:
    result = tmp_path / "r"
    asked = {"prompt": "你好", "stats": True, "result_path": str(result), "system": "Be brief."}
    done = pipe({**asked, "params": {"max_tokens": 4}}, "text\r\nfrom a file\n\n", tmp_path)
    assert done.returncode == 0
    assert "tok/s" in done.stderr and "tok/s" not in done.stdout
    line = json.loads(result.read_text("utf-8"))
    assert line["messages"][1]["content"] == "text\nfrom a file\n\n你好"
    assert done.stdout == line["response"] + "\n"


def test_a_single_question_can_go_on_too(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    asked = {"keep": str(file), "params": {"max_tokens": 3}}
    assert pipe({**asked, "prompt": FRUITS}, "", tmp_path).returncode == 0
    assert not file.exists(), "a single answer is nobody's conversation"
    for count in (1, 2):
        done = pipe({**asked, "prompt": FRUITS, "resume": True}, "", tmp_path)
        assert done.returncode == 0
        assert len(json.loads(file.read_text("utf-8"))["turns"]) == count
    file.write_text("{")
    broken = pipe({**asked, "prompt": FRUITS, "resume": True}, "", tmp_path)
    assert (broken.returncode, broken.stdout) == (2, "")
    assert len(broken.stderr.splitlines()) == 1 and "is not a conversation" in broken.stderr


def test_an_empty_stdin_asks_nothing(tmp_path: Path) -> None:
    done = pipe({}, "", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing to ask" in done.stderr


def test_a_prompt_that_is_too_long_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = pipe({"config": {"context": 256}}, "word " * 500, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the context holds 256" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_of_any_encoding_gets_an_answer(tmp_path: Path, encoding: str) -> None:
    asked = {"prompt": "Repeat: 你好 \udce4", "params": {"max_tokens": 12}}
    done = pipe(asked, "", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    child = subprocess.Popen(
        command({"prompt": LONG}),
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout and child.stderr
    assert child.stdout.read(4)
    child.stdout.close()
    errors = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(60) == 0
    assert len(errors.splitlines()) == 1, errors


def test_a_full_disk_is_one_line_and_exit_5(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            command({"prompt": FRUITS}),
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=120,
        )
    assert done.returncode == 5
    assert done.stderr.splitlines()[1:] == ["cannot write the answer: No space left on device"]


def test_ctrl_c_ends_a_single_answer_with_130(tmp_path: Path) -> None:
    child = subprocess.Popen(
        command({"prompt": LONG}),
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout
    assert child.stdout.read(4) == b"Once"
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"Traceback" not in errors and out.endswith(b"\n")
