"""`portable worker`."""

from __future__ import annotations

from typing import Annotated

import typer

from portable.cli.app import app, edge, say
from portable.errors import UsageError
from portable.flags import size_or_off


@app.command()
@edge
def worker(
    host: Annotated[str, typer.Option(help="IPv4 address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(show_default="50052, or the next free one", min=0, max=65535)
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: one a performance core.")] = 0,
    memory: Annotated[
        str, typer.Option(help="The most to lend: a size such as 6GB; auto: what is free.")
    ] = "auto",
    device: Annotated[
        list[str] | None,
        typer.Option(help="What to lend, as llama.cpp names it: CPU, CUDA0. Repeatable."),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep weights on disk: they cross the network once.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine: no key protects it.")
    ] = False,
) -> int:
    """Lend this machine's memory and cores to models on another one (`--rpc` there)."""
    from portable import store
    from portable import worker as lending

    most = size_or_off("--memory", memory)
    if most == 0:
        raise UsageError(f"--memory {memory!r} lends nothing", hint="such as 6GB, or auto")
    config = lending.WorkerConfig(
        host=host,
        port=port,
        threads=threads,
        memory=most or 0,
        devices=tuple(dict.fromkeys(device or ())),
        cache=store.tensors() if cache else None,
        insecure=insecure,
    )
    return lending.run(config, say)
