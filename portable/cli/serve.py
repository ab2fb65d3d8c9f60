"""`portable serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from portable.cli.app import app, edge, say
from portable.cli.run import engine, obtained
from portable.flags import SLOTS, Listening, Running, Sampling, Source

if TYPE_CHECKING:
    from portable.obtain import Model


@app.command()
@edge
def serve(
    source: Source,
    running: Running,
    sampling: Sampling,
    listening: Listening,
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
    from portable.server.served import ModelConfig

    config = ServerConfig(
        host=listening.host,
        port=listening.port,
        api_keys=tuple(listening.api_key or ()),
        insecure=listening.insecure,
        any_model=any_model,
        fail_while_loading=fail_while_loading,
    )
    if listening.port is not None:  # what is wrong with it is said before anything is downloaded
        choose_port(config, say)
    found = obtained(source)
    model = ModelConfig(
        engine=engine(found, running, slots=parallel),
        names=names(found, served_model_name),
        sampling=sampling.said,
        fallback=found.sampling,
    )
    return serve([model], config, say)


def names(found: Model, shown: str | None) -> tuple[str, ...]:
    """All ids that mean this model, the one to show first."""
    known = (shown, found.id, found.full_id, *found.aliases)
    return tuple(dict.fromkeys(name for name in known if name))
