"""`portable chat`: load the model, then talk or answer once; knows modes, not their insides."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from portable import gguf
from portable.chat.answer import Answerer
from portable.chat.ask import Ask, ask_within, figures
from portable.chat.commands import Reader
from portable.chat.interrupt import on_interrupt
from portable.chat.kept import Kept
from portable.chat.options import ChatOptions
from portable.chat.record import Record
from portable.chat.session import Conversation, Turn
from portable.chat.talk import Talk
from portable.chat.terminal import (
    Terminal,
    clean,
    give_up_stdout,
    is_terminal,
    whisper,
    write,
)
from portable.engine.config import EngineConfig
from portable.engine.rpc.lost import GUARD, Pulse
from portable.engine.service import Service
from portable.engine.worker import Streams
from portable.errors import EngineError
from portable.progress import progress

Say = Callable[[str], None]


def run(config: EngineConfig, options: ChatOptions, say: Say) -> int:
    """Chat at the terminal, or answer one prompt from `options.prompt`, stdin or both.

    Returns the exit code: 0, or 130 by Ctrl-C. `say` gets a line about what ran where, and
    one for each GPU that is there and not used. Raises
    PortableError when the model cannot be loaded or a single answer cannot be made.
    """
    try:
        record = Record(options.result_path)
        begun = _begun(options, say)
        if options.prompt is None and is_terminal(sys.stdin):
            return _with_model(config, options, say, lambda ask: _talk(ask, options, record, begun))
        prompt = _prompt(options.prompt)
        if not prompt.strip():
            say("There was nothing to ask: stdin is empty and no prompt was given.")
            return 0
        begun.turns.append(Turn("user", prompt))
        return _with_model(config, options, say, lambda ask: _once(ask, options, record, begun))
    except BrokenPipeError:
        give_up_stdout()
        return 0
    except KeyboardInterrupt:
        return 130


def _begun(options: ChatOptions, say: Say) -> Conversation:
    """The conversation to go on with, or a new one; a system prompt that is given counts."""
    kept = Kept(options.keep).load() if options.resume else None
    if options.resume and kept is None:
        say("There is no conversation with this model to go on with: this is a new one.")
    begun = kept or Conversation()
    begun.settle()
    if options.system is not None:
        begun.system = options.system
    return begun


def _prompt(given: str | None) -> str:
    """What is piped in, then what was given."""
    piped = "" if sys.stdin is None or is_terminal(sys.stdin) else _read_stdin()
    return "\n\n".join(clean(part) for part in (piped, given or "") if part)


def _read_stdin() -> str:
    buffer = getattr(sys.stdin, "buffer", None)
    text = buffer.read().decode("utf-8-sig", "replace") if buffer else sys.stdin.read()
    return str(text).replace("\r\n", "\n").rstrip("\n")


def _with_model(
    config: EngineConfig, options: ChatOptions, say: Say, work: Callable[[Answerer], int]
) -> int:
    streams = Streams()
    GUARD.report = _farewell(options, say)
    GUARD.install(())
    service = _load(config, streams, quiet=options.quiet)
    try:
        info = service.info
        if not options.quiet:
            say(
                f"{gguf.stem(config.model)}: {info.placement} ({service.offload_reason}),"
                f" context {info.context} tokens, loaded in {info.load_seconds:.1f} s"
            )
            for finding in (each for each in service.findings if not each.note):
                say(f"warning: {finding}")
        params = options.params(info) if callable(options.params) else options.params
        return work(Answerer(service, streams, params, _template_options(options)))
    finally:
        service.close()


def _farewell(options: ChatOptions, say: Say) -> Callable[[EngineError], None]:
    """What is said when a worker or a GPU is lost, which this process does not survive."""

    def tell(error: EngineError) -> None:
        say(f"\nportable: {error}")
        if options.keep and is_terminal(sys.stdin):
            say("The turns before are kept: go on with --continue.")

    return tell


def _template_options(options: ChatOptions) -> dict[str, Any]:
    return {} if options.thinking is None else {"enable_thinking": options.thinking}


def _load(config: EngineConfig, streams: Streams, *, quiet: bool) -> Service:
    """The model, with a bar at a terminal. Ctrl-C counts when llama.cpp has come back."""
    pressed: list[bool] = []
    pulse = Pulse()
    if config.rpc:
        GUARD.watch(pulse, config.rpc_seconds)
    with (
        on_interrupt(lambda: pressed.append(True)),
        progress(quiet=quiet or not is_terminal(sys.stderr)) as report,
    ):
        size = config.model.stat().st_size if config.model.is_file() else 0

        def loading(done: float) -> None:
            pulse.part()
            report("loading", int(done * size), size, "")

        service = Service(config, streams, loading)
    pulse.follow(lambda: (service.worker.steps, service.worker.unfinished))
    if pressed:
        service.close()
        raise KeyboardInterrupt
    return service


def _talk(ask: Answerer, options: ChatOptions, record: Record, begun: Conversation) -> int:
    return Talk(
        begun,
        ask,
        Terminal(),
        record,
        Reader(options.bare_commands),
        Kept(options.keep),
        stream=options.stream,
        stats=options.shows_stats,
        facts=ask.facts,
    ).run()


def _once(ask: Ask, options: ChatOptions, record: Record, conversation: Conversation) -> int:
    answer, _ = ask_within(conversation, ask, write if options.stream else _nowhere)
    ending = "" if answer.text.endswith("\n") else "\n"
    write(ending if options.stream else answer.text + ending)
    if answer.cut:
        whisper(f"The answer is cut: {answer.cut}.")
    if options.shows_stats and answer.usage:
        whisper(figures(answer.usage, answer.context, answer.threads))
    newest = conversation.turns[-1]
    newest.answer, newest.stopped = answer.text, answer.stopped
    if options.resume and answer.text:
        Kept(options.keep).save(conversation)
    record.append(answer.text, conversation.messages(), stopped=answer.stopped)
    return 130 if answer.stopped else 0


def _nowhere(text: str) -> None:
    """For an answer that is shown whole at its end."""
