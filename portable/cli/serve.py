"""`portable serve`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portable.cli import settings
from portable.cli.app import app, edge, say
from portable.cli.run import check_workers, engine, obtained
from portable.errors import UsageError
from portable.flags import Listening, Logging, Running, Sampling, Source, size_or_off, spread

if TYPE_CHECKING:
    from portable.obtain import Model
    from portable.server.config import ServerConfig
    from portable.server.served import ModelConfig


@dataclass(frozen=True)
class Serving:
    """What is served under which names, and what becomes of a request."""

    served_model_name: Annotated[
        str | None,
        typer.Option("--served-model-name", "--served_model_name", help="The id to show."),
    ] = None
    also: Annotated[
        list[str] | None,
        typer.Option("--model", help="Another model to serve, loaded when asked for. Repeatable."),
    ] = None
    keep_alive: Annotated[
        str | None,
        typer.Option(
            help="Unload a model that nobody asked for that long: 10m, 90 (seconds), forever.",
            show_default="forever; 10m with several models",
        ),
    ] = None
    any_model: Annotated[bool, typer.Option("--any-model", help="Accept any model name.")] = False
    fail_while_loading: Annotated[
        bool, typer.Option("--fail-while-loading", help="503 instead of waiting for the model.")
    ] = False
    tool_parser: Annotated[
        str | None,
        typer.Option(
            "--tool-parser", help="How the model writes calls: hermes, llama3, mistral, …, generic."
        ),
    ] = None
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse fields that it does not know.")
    ] = False
    parallel: Annotated[
        str, typer.Option(help="Requests that decode together: a number, or auto.")
    ] = "auto"


@dataclass(frozen=True)
class Flags:
    """All that `portable serve` is told."""

    source: Source
    running: Running
    sampling: Sampling
    listening: Listening
    logging: Logging
    serving: Serving


@app.command()
@edge
def serve(
    source: Source,
    running: Running,
    sampling: Sampling,
    listening: Listening,
    logging: Logging,
    serving: Serving,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with these flags' names; the command line wins.",
            callback=settings.apply,
            is_eager=True,
        ),
    ] = None,
) -> int:
    """Serve a model to every OpenAI-compatible client."""
    from portable.server.run import choose_port, serve

    flags = Flags(source, running, sampling, listening, logging, serving)
    settled = server_config(listening, logging, serving)
    if listening.port is not None:  # what is wrong with it is said before anything is downloaded
        choose_port(settled, say)
    return serve(models(flags), settled, say)


def read(values: Mapping[str, Any], where: str) -> Flags:
    """These flags of `portable serve`, by the names that a --config file gives them.

    Raises UsageError, which says `where` they came from.
    """
    reader = typer.Typer(add_completion=False)
    reader.command()(spread(Flags))
    command = typer.main.get_command(reader)
    given = settings.by_parameter(values, command.params, where)
    try:
        flags: Flags = command.main([], prog_name=where, standalone_mode=False, default_map=given)
    except typer.BadParameter as error:
        raise UsageError(f"{where}: {error.format_message()}") from None
    return flags


def models(flags: Flags) -> list[ModelConfig]:
    """What to serve, the default model first; downloaded and converted if need be."""
    from portable.dialects.choose import dialect_named
    from portable.server.durations import seconds
    from portable.server.served import ModelConfig

    source, serving = flags.source, flags.serving
    dialect = dialect_named(serving.tool_parser) if serving.tool_parser else None
    together = slots(serving.parallel)
    check_workers(flags.running)
    kept = seconds(serving.keep_alive or ("10m" if serving.also else "forever"), "--keep-alive")
    wanted = []
    for at, name in enumerate([source.model, *(serving.also or ())]):
        found = obtained(dataclasses.replace(source, model=name))
        # An adapter fits one model, and so does a draft model.
        alone = dataclasses.replace(flags.running, adapter=None, draft=None)
        model = ModelConfig(
            engine=engine(found, source, alone if at else flags.running, slots=together),
            names=names(found, None if at else serving.served_model_name),
            sampling=flags.sampling.said,
            fallback=found.sampling,
            keep_alive=kept,
            dialect=dialect,
        )
        wanted.append(model)
    return wanted


def slots(text: str) -> int | None:
    """`auto` is None."""
    value = text.strip().lower()
    if value != "auto" and not value.isdecimal():
        raise UsageError(f"--parallel {text!r} is not known", hint="auto or a number of requests")
    return None if value == "auto" else int(value)


def server_config(listening: Listening, logging: Logging, serving: Serving) -> ServerConfig:
    """How the server meets its clients; what is wrong with that is raised here."""
    from portable.server import tls
    from portable.server.config import ServerConfig
    from portable.server.keys import read_keys

    config = ServerConfig(
        host=listening.host,
        port=listening.port,
        api_keys=read_keys(listening.api_key or (), listening.api_key_file, say),
        insecure=listening.insecure,
        allowed_hosts=tuple(listening.allowed_host or ()),
        cors=tuple(listening.cors or ()),
        root_path=listening.root_path.rstrip("/"),
        ssl_certfile=listening.ssl_certfile,
        ssl_keyfile=listening.ssl_keyfile,
        any_model=serving.any_model,
        fail_while_loading=serving.fail_while_loading,
        strict=serving.strict,
        **dataclasses.asdict(logging),
    )
    tls.context(config)
    limit = size_or_off("--max-body", listening.max_body)
    return config if limit is None else dataclasses.replace(config, max_body=limit)


def names(found: Model, shown: str | None) -> tuple[str, ...]:
    """All ids that mean this model, the one to show first."""
    known = (shown, found.id, found.full_id, *found.aliases)
    return tuple(dict.fromkeys(name for name in known if name))
