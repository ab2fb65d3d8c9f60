"""`portable unload`: a running server gives a model's memory back, until somebody asks for it."""

from __future__ import annotations

from typing import Annotated

import typer

from portable.cli.app import app, edge, say


@app.command()
@edge
def unload(
    model: Annotated[
        str | None, typer.Argument(help="The model's id.", show_default="the server's first")
    ] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="PORTABLE_API_KEY")] = None,
) -> int:
    """Have a server unload a model as soon as it is idle: its memory is free then."""
    from portable.server import ask

    say(f"{ask.unload(url, model, api_key)} is unloaded; the next request loads it again")
    return 0
