"""A conversation driven through its seam: a list of lines in, a function for the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from portable.chat.ask import Answer, Show, ask_within, figures
from portable.chat.commands import Reader
from portable.chat.kept import Kept
from portable.chat.record import Record
from portable.chat.session import Conversation, Turn
from portable.chat.talk import BANNER, RULE, Interrupted, Talk
from portable.engine.sequence import Usage
from portable.engine.template import Message
from portable.errors import ContextLengthExceeded, DiskError, EngineError, UsageError

USAGE = Usage(30, 10, 5, queue_seconds=0.1, prompt_seconds=0.4, decode_seconds=0.5)


@dataclass
class FakeScreen:
    lines: list[Any]
    prompts: list[str] = field(default_factory=list)
    shown: str = ""
    told: list[str] = field(default_factory=list)
    whispered: list[str] = field(default_factory=list)

    def read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return str(line)

    def show(self, text: str) -> None:
        self.shown += text

    def tell(self, line: str) -> None:
        self.told.append(line)

    def whisper(self, line: str) -> None:
        self.whispered.append(line)


@dataclass
class FakeModel:
    """Answers with the last word of the last message, in two parts; `fits` messages at most."""

    fits: int = 99
    answer: Callable[[str], Answer] = lambda text: Answer(text, usage=USAGE, context=64)
    asked: list[list[Message]] = field(default_factory=list)

    def __call__(self, messages: list[Message], show: Show, *, spare: float = 0.0) -> Answer:
        if len(messages) > self.fits:
            raise ContextLengthExceeded("too long")
        self.asked.append(messages)
        answer = self.answer(messages[-1]["content"].split()[-1].upper())
        for part in (answer.text[:1], answer.text[1:]):
            if part:
                show(part)
        return answer


def talk(*lines: Any, model: FakeModel | None = None, **options: Any) -> tuple[Talk, FakeScreen]:
    screen = FakeScreen(list(lines))
    record = Record(options.pop("path", None))
    conversation = Conversation(options.pop("system", None))
    conversation.turns += options.pop("turns", [])
    reader = Reader(options.pop("bare_commands", True))
    session = Talk(conversation, model or FakeModel(), screen, record, reader, **options)
    return session, screen


def test_an_answer_ends_in_a_newline_and_fifty_dashes() -> None:
    session, screen = talk("say hello")
    assert session.run() == 0
    assert screen.shown == f"HELLO\n{RULE}\n" and RULE == 50 * "-"
    assert tuple(screen.told) == BANNER
    assert screen.prompts == ["<<< ", "<<< "]
    assert screen.whispered == [figures(USAGE, 64)]


def test_without_streaming_the_answer_comes_in_one_piece() -> None:
    parts: list[str] = []
    session, screen = talk("say hello", stream=False, stats=False)
    screen.show = parts.append  # type: ignore[method-assign]
    session.run()
    assert parts == [f"HELLO\n{RULE}\n"]
    assert not screen.whispered


def test_the_model_gets_the_whole_conversation_and_clear_keeps_the_system_prompt() -> None:
    model = FakeModel()
    session, _ = talk("a", "tool:b", "clear", "c", model=model, system="S")
    session.run()
    system = {"role": "system", "content": "S"}
    question = {"role": "user", "content": "a"}
    answer = {"role": "assistant", "content": "A"}
    assert model.asked[1] == [system, question, answer, {"role": "tool", "content": "b"}]
    assert model.asked[2] == [system, {"role": "user", "content": "c"}]


@pytest.mark.parametrize(
    ("typed", "head"),
    [
        ("Be kind.", [{"role": "system", "content": "Be kind."}]),
        ("", [{"role": "system", "content": ""}]),
        ("default-system", []),
    ],
)
def test_reset_system_sets_it_and_clears(typed: str, head: list[Message]) -> None:
    model = FakeModel()
    session, screen = talk("a", "reset-system", typed, "b", model=model, system="old")
    session.run()
    assert model.asked[-1] == [*head, {"role": "user", "content": "b"}]
    assert screen.prompts[2] == "<<<[S] "


def test_each_turn_is_recorded_as_swift_does(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.jsonl"
    for _ in range(2):
        talk("你好", "x", path=path, system="S")[0].run()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert "你好" in path.read_text(encoding="utf-8")
    assert [len(line["messages"]) for line in lines] == [3, 5, 3, 5]
    assert list(lines[0]) == ["response", "messages"]
    assert lines[1]["messages"][-1] == {"role": "assistant", "content": lines[1]["response"]}


def test_a_stopped_answer_is_kept_and_marked(tmp_path: Path) -> None:
    model = FakeModel(answer=lambda text: Answer("par", stopped=True))
    session, screen = talk("a", model=model, path=tmp_path / "r")
    session.run()
    assert screen.shown == f"par [stopped]\n{RULE}\n"
    assert session.conversation.turns == [Turn("user", "a", "par", stopped=True)]
    assert json.loads((tmp_path / "r").read_text())["stopped"] is True


def test_an_answer_stopped_before_its_first_word_leaves_nothing_dangling() -> None:
    model = FakeModel(answer=lambda text: Answer("", stopped=True))
    session, screen = talk("a", model=model)
    session.run()
    assert screen.shown == f"[stopped]\n{RULE}\n"
    assert not session.conversation.turns


def test_an_error_is_one_line_and_the_session_goes_on() -> None:
    def fail_on_b(text: str) -> Answer:
        if text == "B":
            raise EngineError("it broke", hint="try again")
        return Answer(text)

    session, screen = talk("a", "b", "c", model=FakeModel(answer=fail_on_b))
    assert session.run() == 0
    assert screen.told[-1] == "error: it broke (try again)"
    assert [turn.answer for turn in session.conversation.turns] == ["A", "C"]


def test_the_oldest_turns_are_left_out_and_that_is_told() -> None:
    model = FakeModel(fits=4)
    session, screen = talk("a", "b", "c", model=model, system="S")
    session.run()
    assert [m["content"] for m in model.asked[-1]] == ["S", "b", "B", "c"]
    assert "The oldest turn was left out" in screen.told[-1]
    assert len(session.conversation.turns) == 2


def test_a_message_too_long_by_itself_costs_nothing_of_the_history() -> None:
    def refuse(text: str) -> Answer:
        if text == "LONG":
            raise ContextLengthExceeded("the prompt has 900 tokens, the context holds 64")
        return Answer(text)

    session, screen = talk("a", "b", "too long", model=FakeModel(answer=refuse))
    session.run()
    assert screen.told[-1].startswith("error: the prompt has 900 tokens")
    assert [turn.text for turn in session.conversation.turns] == ["a", "b"]


def test_a_tool_result_is_never_the_oldest_message() -> None:
    turns = [Turn("user", "a", "A"), Turn("tool", "b", "B"), Turn("user", "c")]
    conversation = Conversation(None, turns)
    answer, left_out = ask_within(conversation, FakeModel(fits=4), lambda text: None)
    assert (answer.text, left_out) == ("C", 2)


def test_a_cut_answer_says_which_limit_cut_it() -> None:
    model = FakeModel(answer=lambda text: Answer(text, cut="the limit of 5 tokens was reached"))
    _, screen = _run(talk("a", model=model))
    assert screen.told[-1] == "The answer is cut: the limit of 5 tokens was reached."


def test_retry_and_undo() -> None:
    count = iter("1234")
    model = FakeModel(answer=lambda text: Answer(next(count)))
    session, screen = talk("/retry", "a", "/retry", "b", "/undo", "/undo", "/undo", model=model)
    session.run()
    assert model.asked[1] == [{"role": "user", "content": "a"}]
    assert [m["content"] for m in model.asked[2]] == ["a", "2", "b"]
    assert screen.told[-2:] == ["There is nothing to retry.", "There is nothing to take back."]


def test_a_failed_retry_keeps_the_answer_there_was() -> None:
    answers = iter([Answer("first"), Answer("", stopped=True)])
    session, _ = talk("a", "/retry", model=FakeModel(answer=lambda text: next(answers)))
    session.run()
    assert session.conversation.turns == [Turn("user", "a", "first")]


def test_figures_can_be_switched_off_and_on() -> None:
    _, screen = _run(talk("/stats off", "a", "/stats on", "b"))
    assert len(screen.whispered) == 1


def test_what_runs_where_is_told_when_asked() -> None:
    session, screen = talk("/stats")
    session.facts = lambda: ["29/29 layers -> CUDA0"]
    session.run()
    assert screen.told[-1] == "29/29 layers -> CUDA0"


def test_ctrl_c_at_an_empty_prompt_hints_then_leaves_with_130() -> None:
    session, screen = talk(Interrupted(typed=False), Interrupted(typed=False), "never read")
    assert session.run() == 130
    assert screen.told[-1] == "Press Ctrl-C again to leave, or type `exit`."
    assert screen.lines == ["never read"]


def test_ctrl_c_hints_again_after_anything_else() -> None:
    empty, typed = Interrupted(typed=False), Interrupted(typed=True)
    session, screen = talk(empty, "a", empty, typed, empty)
    assert session.run() == 0
    assert screen.told.count("Press Ctrl-C again to leave, or type `exit`.") == 3


def test_ctrl_c_drops_an_unfinished_message() -> None:
    session, screen = talk("multi-line", "half", Interrupted(typed=False), "a#")
    session.run()
    assert screen.prompts[1:5] == ["<<<[M] ", "", "<<<[M] ", "<<<[M] "]
    assert [turn.text for turn in session.conversation.turns] == ["a"]


def test_a_late_ctrl_c_leaves_no_unanswered_turn() -> None:
    def interrupt(text: str) -> Answer:
        raise KeyboardInterrupt

    session, _ = talk("a", model=FakeModel(answer=interrupt))
    assert session.run() == 0
    assert not session.conversation.turns


@pytest.mark.parametrize("name", ["", "file/below", "nul\0byte", "new\nline"])
def test_an_unwritable_result_path_is_refused_before_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        Record(tmp_path / name)


def test_a_full_disk_is_told_and_the_turn_stays() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    session, screen = talk("a", path=Path("/dev/full"))
    session.run()
    assert screen.told[-1].startswith("error: cannot write /dev/full")
    assert [turn.answer for turn in session.conversation.turns] == ["A"]
    with pytest.raises(DiskError):
        Record(Path("/dev/full")).append("", [])


def test_a_conversation_is_kept_after_each_turn_and_is_as_it_was(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "chats" / "model.json")
    assert kept.load() is None
    model = FakeModel(answer=lambda text: Answer(text, stopped=text == "你"))
    session, _ = talk("a", "tool:b", "你", model=model, system="S", kept=kept)
    session.run()
    assert kept.load() == session.conversation
    assert len(session.conversation.turns) == 3 and session.conversation.turns[2].stopped
    (file,) = (tmp_path / "chats").iterdir()
    assert file.stat().st_mode & 0o077 == file.parent.stat().st_mode & 0o077 == 0
    session, _ = talk("/undo", turns=session.conversation.turns, kept=kept)
    session.run()
    assert [turn.text for turn in (kept.load() or Conversation()).turns] == ["a", "b"]


@pytest.mark.parametrize("line", ["clear", "/clear", "/system S", "/undo"])
def test_what_is_cleared_is_forgotten_on_disk_too(tmp_path: Path, line: str) -> None:
    kept = Kept(tmp_path / "model.json")
    session, _ = talk("a", line, kept=kept)
    session.run()
    assert list(tmp_path.iterdir()) == []


def test_a_question_without_an_answer_costs_no_kept_conversation(tmp_path: Path) -> None:
    def fail(text: str) -> Answer:
        raise EngineError("it broke")

    kept = Kept(tmp_path / "model.json")
    kept.save(before := Conversation("S", [Turn("user", "a", "A")]))
    session, _ = talk("b", model=FakeModel(answer=fail), kept=kept)
    session.run()
    assert kept.load() == before


def test_who_comes_back_sees_what_was_said_last() -> None:
    turns = [Turn("user", "a", "A"), Turn("user", "b", "B")]
    session, screen = talk("c", turns=turns)
    session.run()
    assert screen.told[len(BANNER) :] == ["Going on after 2 turns. The last one:", "> b", "B", RULE]
    assert len(session.conversation.turns) == 3


def test_a_disk_that_keeps_nothing_is_told_once_and_the_chat_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    session, screen = talk("a", "b", kept=Kept(tmp_path / "file" / "model.json"))
    session.run()
    told = [line for line in screen.told if line.startswith("error: ")]
    assert len(told) == 1 and "no longer kept" in told[0]
    assert [turn.answer for turn in session.conversation.turns] == ["A", "B"]


@pytest.mark.parametrize("text", ["", "[]", '{"turns": [{"role": 1}]}', "\xff"])
def test_a_damaged_conversation_is_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text, "latin-1")
    with pytest.raises(UsageError, match=r"model.json is not a conversation"):
        Kept(tmp_path / "model.json").load()


def test_figures_name_what_was_computed() -> None:
    assert figures(USAGE, 64) == (
        "first token 0.50 s · prompt 30 tokens (10 cached), 50.0 tok/s"
        " · answer 5 tokens, 8.0 tok/s · context 35/64"
    )
    assert figures(replace(USAGE, drafted_tokens=4, accepted_tokens=3), 64).endswith(
        " · guesses 3/4"
    )


def _run(pair: tuple[Talk, FakeScreen]) -> tuple[Talk, FakeScreen]:
    pair[0].run()
    return pair
