"""The words and modes of ms-swift's terminal, line by line, without a terminal."""

from __future__ import annotations

import pytest

from portable.chat.commands import (
    Action,
    Clear,
    Leave,
    Reader,
    Retry,
    Send,
    SetSystem,
    Stats,
    Tell,
    Undo,
    Where,
    help_lines,
)


def feed(lines: list[str], reader: Reader | None = None) -> tuple[Action | None, str]:
    """The last line's action, and the prompt after it."""
    reader = reader or Reader()
    actions = [reader.feed(line) for line in lines]
    return actions[-1], reader.prompt


SWIFT = [
    # lines, action, next prompt
    (["exit"], Leave(), "<<< "),
    (["  QUIT "], Leave(), "<<< "),
    (["reset-system", "Exit"], Leave(), "<<<[S] "),
    (["multi-line", "exit#"], Leave(), "<<<[M] "),
    (["multi-line", "exit"], None, ""),
    (["clear"], Clear(), "<<< "),
    ([" Clear "], Clear(), "<<< "),
    (["clear the table"], Send("clear the table"), "<<< "),
    (["please exit"], Send("please exit"), "<<< "),
    ([""], None, "<<< "),
    (["   "], None, "<<< "),
    (["reset-system"], None, "<<<[S] "),
    (["reset-system", " You are a cat. "], SetSystem(" You are a cat. "), "<<< "),
    (["reset-system", "clear"], SetSystem("clear"), "<<< "),
    (["reset-system", "/help"], SetSystem("/help"), "<<< "),
    (["reset-system", "default-system"], SetSystem(None), "<<< "),
    (["reset-system", " default-system"], SetSystem(" default-system"), "<<< "),
    (["reset-system", ""], SetSystem(""), "<<< "),
    (["multi-line", "reset-system#"], None, "<<<[MS] "),
    (["multi-line", "reset-system#", "Be", "", "kind.#"], SetSystem("Be\n\nkind."), "<<<[M] "),
    (["multi-line", "a", "", " b "], None, ""),
    (["multi-line", "a", "", " b #"], Send("a\n\n b "), "<<<[M] "),
    (["multi-line", "", "a##"], Send("\na#"), "<<<[M] "),
    (["multi-line", "# title", "a #b", "#"], Send("# title\na #b\n"), "<<<[M] "),
    (["multi-line", "a# "], None, ""),
    (["multi-line", "#"], None, "<<<[M] "),
    (["multi-line", "single-line"], None, ""),
    (["multi-line", "single-line#"], None, "<<< "),
    (["multi-line", "single-line#", "hi#"], Send("hi#"), "<<< "),
    (["tool:{}"], Send("{}", "tool"), "<<< "),
    (["tool: 4"], Send(" 4", "tool"), "<<< "),
    ([" tool:4"], Send(" tool:4"), "<<< "),
    (["pasted\nexit\ntext"], Send("pasted\nexit\ntext"), "<<< "),
]


@pytest.mark.parametrize(("lines", "action", "prompt"), SWIFT, ids=lambda value: repr(value)[:40])
def test_swift_words(lines: list[str], action: Action | None, prompt: str) -> None:
    assert feed(lines) == (action, prompt)


def test_multi_line_tells_how_to_end_it() -> None:
    action, prompt = feed(["multi-line"])
    assert prompt == "<<<[M] "
    assert action == Tell(
        (
            "End multi-line input with `#`.",
            "Input `single-line` to switch to single-line input mode.",
        )
    )


SLASH = [
    ("/exit", Leave()),
    ("/quit", Leave()),
    ("/clear ", Clear()),
    ("/retry", Retry()),
    ("/UNDO", Undo()),
    ("/stats off", Stats(False)),
    ("/stats ON", Stats(True)),
    ("/stats", Where()),
    ("/stats maybe", Tell(("/stats alone, /stats on or /stats off",))),
    ("/system Be brief.", SetSystem("Be brief.", told=True)),
    ("/system default-system", SetSystem(None, told=True)),
    ("/system Be brief.\nBe kind.", SetSystem("Be brief.\nBe kind.", told=True)),
    ("/system", Tell(("/system needs the text; `reset-system` asks for it, and may be empty.",))),
    ("/help", Tell(help_lines())),
    ("/?", Tell(help_lines())),
    ("/hlep", Tell(("Unknown command '/hlep'. Did you mean /help? Type /help.",))),
    ("/xyzzy", Tell(("Unknown command '/xyzzy'. Type /help.",))),
    ("/clear it", Tell(("/clear takes nothing after it.",))),
    (" /clear", Send(" /clear")),
    ("/usr/bin/env is what?", Send("/usr/bin/env is what?")),
    ("/ or \\?", Send("/ or \\?")),
]


@pytest.mark.parametrize(("line", "action"), SLASH)
def test_slash_commands(line: str, action: Action) -> None:
    assert feed([line]) == (action, "<<< ")


def test_slash_commands_in_multi_line_mode_end_in_a_hash() -> None:
    assert feed(["/multi-line", "/clear#"]) == (Clear(), "<<<[M] ")
    assert feed(["/multi-line", "/clear", "#"])[0] == Clear()
    assert feed(["/multi-line", "/clear", "it#"])[0] == Send("/clear\nit")


@pytest.mark.parametrize("word", ["exit", "clear", "multi-line", "reset-system", "quit"])
def test_bare_words_can_be_messages(word: str) -> None:
    assert feed([word], Reader(bare_commands=False)) == (Send(word), "<<< ")
    assert feed(["/exit"], Reader(bare_commands=False))[0] == Leave()


def test_an_unfinished_message_can_be_dropped() -> None:
    reader = Reader()
    feed(["multi-line", "half"], reader)
    assert reader.unfinished
    reader.drop()
    assert feed(["whole#"], reader) == (Send("whole"), "<<<[M] ")
