"""`portable chat` and `bench`, and what every command that runs a model needs first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from portable.cli.app import app, edge, say
from portable.errors import DiskError, UsageError
from portable.flags import (
    Running,
    Sampling,
    Source,
    boolean,
    complete_model,
    numbers,
    size_or_off,
)

if TYPE_CHECKING:
    from portable.engine.config import EngineConfig
    from portable.obtain import Model


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
    resume: Annotated[
        bool, typer.Option("--continue", help="Go on with the last conversation with this model.")
    ] = False,
) -> int:
    """Talk to a model in the terminal."""
    from portable import chat as terminal
    from portable import store
    from portable.engine.sequence import layered

    streaming = boolean("--stream", stream)
    check_workers(running)
    found = obtained(source)
    config = engine(found, source, running, slots=1)
    # Who wants no prompts on disk wants no conversation there, unless asking for it.
    keeps = resume or config.prompt_cache is not None
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
        keep=store.conversation(found.full_id or str(found.path.absolute())) if keeps else None,
        resume=resume,
    )
    return terminal.run(config, options, say)


@app.command()
@edge
def bench(
    running: Running,
    target: Annotated[
        str | None,
        typer.Argument(
            help="URL of a server, or a model to run here.",
            show_default=False,
            autocompletion=complete_model,
        ),
    ] = None,
    clients: Annotated[str, typer.Option(help="Clients at once, level by level.")] = "1,4,8",
    requests: Annotated[int, typer.Option(help="Requests a level.")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Tokens an answer.")] = 64,
    prompt: Annotated[
        str, typer.Option(help="short, long, shared, mixed, restart or steps.")
    ] = "short",
    model: Annotated[str | None, typer.Option(help="The model's name on the server.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="PORTABLE_API_KEY")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw it, as SVG, into this file.")] = None,
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
        source = Source(model=target, offline=offline)
        check_workers(running)
        found = obtained(source)
        config = engine(found, source, running, slots=min(64, max(options.clients)))
        if options.prompt in ("restart", "steps"):
            restart = options.prompt == "restart"
            alone = benchmark.bench_restart if restart else benchmark.bench_steps
            measured: benchmark.Restart | benchmark.Steps = alone(config, options, say)
            print(benchmark.to_json(measured) if as_json else measured.lines())
            return 0
        report = benchmark.bench_model(config, options, say)
    print(benchmark.to_json(report) if as_json else benchmark.render(report))
    if plot:
        written(plot, benchmark.plot(report))
    return 1 if report.errors else 0


def written(path: Path, text: str) -> None:
    """Put the text into the file. Raises DiskError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from None


def obtained(source: Source) -> Model:
    """The GGUF to run, downloaded and converted first if need be.

    Raises EngineError before that where llama.cpp cannot run.
    """
    from portable.engine import libllama
    from portable.obtain import obtain
    from portable.progress import progress

    libllama.check()
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


def check_workers(running: Running) -> None:
    """Say what each worker of `--rpc` lends, before anything is downloaded.

    Raises UsageError, NetworkError or Busy for one that cannot be used.
    """
    from portable.engine.rpc.endpoint import parts
    from portable.engine.rpc.hello import address, ask

    if running.gpu_layers.strip() == "0":  # none would be asked to work
        return
    known: dict[tuple[str, int], str] = {}
    for endpoint in running.workers:
        memory = sum(offer.free for offer in ask(endpoint))
        other = known.setdefault((address(endpoint), parts(endpoint)[1]), endpoint)
        if other != endpoint:
            raise UsageError(f"--rpc {endpoint} is {other} by another name", hint="name it once")
        say(f"worker {endpoint}: {memory / (1 << 30):.1f} GiB free")


def engine(found: Model, source: Source, running: Running, *, slots: int | None) -> EngineConfig:
    """The engine's configuration for this model; `slots` None are chosen by its file."""
    from portable import store
    from portable.engine.config import EngineConfig

    most = size_or_off("--prompt-cache", running.prompt_cache)
    draft = running.draft and replace(source, model=running.draft, quant=None, revision=None)
    config = EngineConfig(
        found.path,
        **running.tokens,
        **running.placement,
        rope=running.rope,
        slots=slots or 1,
        threads=running.threads,
        eco=running.eco,
        flash_attention=running.flash_attention,
        kv_type=running.kv_type,
        speculate=running.speculate,
        deterministic=running.deterministic,
        pooling=running.pooling,
        draft=obtained(draft).path if draft else None,
        adapter=running.adapter,
        plans=store.plans(),
        prompt_cache=None if most == 0 else store.prompts(),
        prompt_cache_bytes=most,
    )
    return with_slots(config) if slots is None else config


def with_slots(config: EngineConfig) -> EngineConfig:
    """As many slots as the model's context and this machine's memory are good for; says so."""
    from portable import gguf
    from portable.engine.machine import available_memory
    from portable.engine.offload.shape import shape_of
    from portable.engine.offload.slots import auto_slots
    from portable.engine.offload.wish import wish_of

    shape = shape_of(gguf.read_all(config.model))
    free = max(0, available_memory() - shape.size)
    count, reason = auto_slots(shape, wish_of(config), free)
    say(reason)
    return replace(config, slots=count)
