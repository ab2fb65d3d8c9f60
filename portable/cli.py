"""The command line: the only place that sees everything. Heavy imports wait for their command."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from convert.quants import DEFAULT_QUANT
from portable import __version__
from portable.errors import PortableError
from portable.flags import (
    SLOTS,
    Running,
    Sampling,
    Source,
    boolean,
    folder_or_file,
    numbers,
    spread,
)

if TYPE_CHECKING:
    from portable.engine.config import EngineConfig
    from portable.obtain import Model

app = typer.Typer(
    name="portable",
    help="Your own language model on your own machine: convert, chat, serve. Without torch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def say(text: str) -> None:
    """One line for the person at the terminal; stdout belongs to the answer."""
    print(text, file=sys.stderr, flush=True)


def edge(command: Callable[..., int]) -> Callable[..., None]:
    """The command line's edge of the error tree: one line on stderr and the exit code."""
    command = spread(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        try:
            code = command(**given)
        except PortableError as error:
            say(f"portable: {error}")
            code = error.exit_code
        except KeyboardInterrupt:
            code = 130
        except BrokenPipeError:  # the reader left, as in `portable chat | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except Exception as error:
            if os.environ.get("PORTABLE_DEBUG"):
                raise
            say(f"portable: unexpected {type(error).__name__}: {error}")
            say("Please report this, with what PORTABLE_DEBUG=1 shows.")
            code = 1
        raise typer.Exit(code)

    return run


def _version(wanted: bool) -> None:
    if wanted:
        print(f"portable {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
@edge
def convert(
    model: Annotated[str, typer.Argument(help="ModelScope id, hf://org/name, name or folder.")],
    quant: Annotated[
        str, typer.Option("--quant", "-q", help="See `portable quants`.")
    ] = DEFAULT_QUANT,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Turn a checkpoint into a quantized GGUF file."""
    import convert as converter
    from portable.obtain import fetch_checkpoint
    from portable.progress import progress, size

    name = converter.quant_name(quant)
    with progress(quiet=quiet) as report:
        source = fetch_checkpoint(
            model, revision=revision, offline=offline, say=say, progress=report
        )
        done = converter.convert(
            source.folder,
            folder_or_file(output, converter.default_output_name(source.name, name)),
            quant=name,
            name=source.name,
            progress=lambda p: report(p.phase, p.done_bytes, p.total_bytes, p.tensor),
        )
    for warning in done.warnings:
        say(f"note: {warning}")
    say(f"{done.path}: {done.quant}, {size(done.size)}, converted in {done.seconds:.1f} s")
    return 0


@app.command()
@edge
def quants() -> int:
    """List the quantizations that convert knows."""
    import convert as converter

    print("\n".join(converter.quant_names()))
    return 0


@app.command()
@edge
def chat(
    source: Source,
    running: Running,
    sampling: Sampling,
    prompt: Annotated[
        str | None, typer.Argument(help="A question: only its answer is printed.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    stream: Annotated[str, typer.Option(help="true, or false: print answers whole.")] = "true",
    stats: Annotated[bool | None, typer.Option(help="Speed after each answer.")] = None,
    result_path: Annotated[
        Path | None,
        typer.Option("--result-path", "--result_path", help="Append each turn, as JSON lines."),
    ] = None,
    bare_commands: Annotated[bool, typer.Option(help="exit, clear … without a slash.")] = True,
    thinking: Annotated[bool | None, typer.Option(help="Let a model that can think do so.")] = None,
) -> int:
    """Talk to a model in the terminal."""
    from portable import chat as terminal
    from portable.engine.sequence import layered

    streaming = boolean("--stream", stream)
    found = obtained(source)
    options = terminal.ChatOptions(
        system=system,
        params=lambda info: layered(found.sampling, info.sampling, sampling.said),
        stream=streaming,
        stats=stats,
        result_path=result_path,
        prompt=prompt,
        bare_commands=bare_commands,
        thinking=thinking,
        quiet=source.quiet,
    )
    return terminal.run(engine(found, running, slots=1), options, say)


@app.command()
@edge
def serve(
    source: Source,
    running: Running,
    sampling: Sampling,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(show_default="8000, or the next free one", min=0, max=65535)
    ] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(envvar="PORTABLE_API_KEY", help="Repeatable.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without a key.")
    ] = False,
    served_model_name: Annotated[
        str | None,
        typer.Option("--served-model-name", "--served_model_name", help="The id to show."),
    ] = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Accept any model name.")] = False,
    fail_while_loading: Annotated[
        bool, typer.Option("--fail-while-loading", help="503 instead of waiting for the model.")
    ] = False,
    parallel: Annotated[int, typer.Option(help="Requests that decode together.")] = SLOTS,
) -> int:
    """Serve a model to every OpenAI-compatible client."""
    from portable.server.config import ServerConfig
    from portable.server.run import choose_port, serve

    config = ServerConfig(
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        insecure=insecure,
        any_model=any_model,
        sampling=sampling.said,
        fail_while_loading=fail_while_loading,
    )
    if port is not None:  # what is wrong with it is said before anything is downloaded
        choose_port(config, say)
    found = obtained(source)
    shown = names(found, served_model_name)
    config = dataclasses.replace(config, names=shown, fallback=found.sampling)
    return serve(engine(found, running, slots=parallel), config, say)


@app.command()
@edge
def bench(
    running: Running,
    target: Annotated[
        str | None,
        typer.Argument(help="URL of a server, or a model to run here.", show_default=False),
    ] = None,
    clients: Annotated[str, typer.Option(help="Clients at once, level by level.")] = "1,4,8",
    requests: Annotated[int, typer.Option(help="Requests a level.")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Tokens an answer.")] = 64,
    prompt: Annotated[str, typer.Option(help="short, long, shared or mixed.")] = "short",
    model: Annotated[str | None, typer.Option(help="The model's name on the server.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="PORTABLE_API_KEY")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub.")] = False,
) -> int:
    """Measure a running server, or a model on this machine."""
    from portable import bench as benchmark

    options = benchmark.BenchOptions(
        clients=numbers("--clients", clients),
        requests=requests,
        max_tokens=max_tokens,
        prompt=cast(Any, prompt),  # BenchOptions checks it
        api_key=api_key,
        model=model,
    )
    if target and "://" in target and not target.startswith(("ms://", "hf://", "modelscope://")):
        report = benchmark.bench_server(target, options, say)
    else:
        found = obtained(Source(model=target, offline=offline))
        slots = min(64, max(options.clients))
        report = benchmark.bench_model(engine(found, running, slots=slots), options, say)
    print(benchmark.to_json(report) if as_json else benchmark.render(report))
    return 1 if report.errors else 0


def obtained(source: Source) -> Model:
    """The GGUF to run, downloaded and converted first if need be."""
    from portable.obtain import obtain
    from portable.progress import progress

    with progress(quiet=source.quiet) as report:
        found = obtain(
            source.model,
            quant=source.quant,
            revision=source.revision,
            offline=source.offline,
            say=say,
            progress=report,
        )
    return found


def engine(found: Model, running: Running, *, slots: int) -> EngineConfig:
    """The engine's configuration for this model."""
    from portable.engine.config import EngineConfig, parse_gpu_layers

    return EngineConfig(
        found.path,
        context=running.context,
        slots=slots,
        threads=running.threads,
        gpu_layers=parse_gpu_layers(running.gpu_layers),
        flash_attention=running.flash_attention,
        mmap=running.mmap,
    )


def names(found: Model, shown: str | None) -> tuple[str, ...]:
    """All ids that mean this model, the one to show first."""
    known = (shown, found.id, found.full_id, *found.aliases)
    return tuple(dict.fromkeys(name for name in known if name))


def main() -> None:
    """The `portable` command."""
    app()


if __name__ == "__main__":
    main()
