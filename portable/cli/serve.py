"""`portable serve`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from portable.cli import settings
from portable.cli.app import app, edge, say
from portable.cli.run import engine, obtained
from portable.errors import UsageError
from portable.flags import Listening, Logging, Running, Sampling, Source, size_or_off

if TYPE_CHECKING:
    from portable.obtain import Model
    from portable.server.config import ServerConfig


@app.command()
@edge
def serve(
    source: Source,
    running: Running,
    sampling: Sampling,
    listening: Listening,
    logging: Logging,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with these flags' names; the command line wins.",
            callback=settings.apply,
            is_eager=True,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option("--served-model-name", "--served_model_name", help="The id to show."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--model", help="Another model to serve, loaded when asked for. Repeatable."),
    ] = None,
    keep_alive: Annotated[
        str | None,
        typer.Option(
            help="Unload a model that nobody asked for that long: 10m, 90 (seconds), forever.",
            show_default="forever; 10m with several models",
        ),
    ] = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Accept any model name.")] = False,
    fail_while_loading: Annotated[
        bool, typer.Option("--fail-while-loading", help="503 instead of waiting for the model.")
    ] = False,
    tool_parser: Annotated[
        str | None,
        typer.Option(
            "--tool-parser", help="How the model writes calls: hermes, llama3, mistral, …, generic."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse fields that it does not know.")
    ] = False,
    parallel: Annotated[
        str, typer.Option(help="Requests that decode together: a number, or auto.")
    ] = "auto",
) -> int:
    """Serve a model to every OpenAI-compatible client."""
    from portable.dialects.choose import dialect_named
    from portable.server.durations import seconds
    from portable.server.run import choose_port, serve
    from portable.server.served import ModelConfig

    settled = dataclasses.replace(
        server_config(listening),
        **dataclasses.asdict(logging),
        any_model=any_model,
        fail_while_loading=fail_while_loading,
        strict=strict,
    )
    if listening.port is not None:  # what is wrong with it is said before anything is downloaded
        choose_port(settled, say)
    dialect = dialect_named(tool_parser) if tool_parser else None
    together = slots(parallel)
    kept = seconds(keep_alive or ("10m" if also else "forever"), "--keep-alive")
    models = []
    for at, name in enumerate([source.model, *(also or ())]):
        found = obtained(dataclasses.replace(source, model=name))
        # An adapter fits one model, and so does a draft model.
        own = dataclasses.replace(running, adapter=None, draft=None) if at else running
        model = ModelConfig(
            engine=engine(found, source, own, slots=together),
            names=names(found, None if at else served_model_name),
            sampling=sampling.said,
            fallback=found.sampling,
            keep_alive=kept,
            dialect=dialect,
        )
        models.append(model)
    return serve(models, settled, say)


def slots(text: str) -> int | None:
    """`auto` is None."""
    value = text.strip().lower()
    if value != "auto" and not value.isdecimal():
        raise UsageError(f"--parallel {text!r} is not known", hint="auto or a number of requests")
    return None if value == "auto" else int(value)


def server_config(listening: Listening) -> ServerConfig:
    """Where the server listens, and for whom; what is wrong with it is raised here."""
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
    )
    tls.context(config)
    limit = size_or_off("--max-body", listening.max_body)
    return config if limit is None else dataclasses.replace(config, max_body=limit)


def names(found: Model, shown: str | None) -> tuple[str, ...]:
    """All ids that mean this model, the one to show first."""
    known = (shown, found.id, found.full_id, *found.aliases)
    return tuple(dict.fromkeys(name for name in known if name))
