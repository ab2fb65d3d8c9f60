"""The application that `serve run` and `serve deploy` start: an ingress before replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import click
import msgspec
from ray import serve

from portable.cli.serve import Flags, read, server_config
from portable.cluster.ingress import Ingress
from portable.cluster.router import SessionRouter
from portable.cluster.server import Server
from portable.errors import UsageError

# Ray Serve listens, on one address for all its applications: `http_options`.
_RAYS = {"port", "ssl_certfile", "ssl_keyfile"}
# Requests that wait for any replica; more are told to come again.
_QUEUED = 64
# An ingress only passes on: it should never be what makes requests wait.
_STREAMS = 10_000


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas, and what each of them gets. Its CPUs are its threads.

    `parallel` is serve's flag: when a replica has more requests than that, on average, there
    shall be another one.
    """

    min_replicas: Annotated[int, msgspec.Meta(ge=0)] = 1
    max_replicas: Annotated[int, msgspec.Meta(ge=1)] = 2
    num_cpus: Annotated[float, msgspec.Meta(ge=1)] = 1
    num_gpus: Annotated[float, msgspec.Meta(ge=0)] = 0
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8

    def __post_init__(self) -> None:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is more than max_replicas")


def app(args: dict[str, Any]) -> serve.Application:
    """`args` are the fields of Replicas and the flags of `portable serve`, by their names.

    Each replica obtains the models on its own machine. Raises ClickException, which Ray's command
    line shows as one line.
    """
    try:
        replicas, flags = settled(args)
        config = server_config(flags.listening, flags.logging, flags.serving)
    except UsageError as error:
        raise click.ClickException(str(error)) from None
    servers = serve.deployment(
        Server,
        autoscaling_config={
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": replicas.parallel,
        },
        # Rather wait where the conversation was read than have it read again by another replica.
        max_ongoing_requests=2 * replicas.parallel,
        max_queued_requests=_QUEUED,
        # Rather anywhere than wait, where there is no room at home.
        request_router_config={
            "request_router_class": SessionRouter,
            "request_router_kwargs": {"num_fallback_replicas": replicas.max_replicas},
        },
        ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        graceful_shutdown_timeout_s=config.drain_seconds,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        max_ongoing_requests=_STREAMS,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=config.drain_seconds,
    )
    return ingress.bind(servers.bind(flags, config), config)


def settled(args: Mapping[str, Any]) -> tuple[Replicas, Flags]:
    """Both halves of `args`. Raises UsageError."""
    args = {name.replace("-", "_"): value for name, value in args.items()}
    if wrong := _RAYS & args.keys():
        hint = "say it in http_options of its config"
        raise UsageError(f"args: {', '.join(sorted(wrong))}: Ray Serve listens", hint=hint)
    own = set(Replicas.__struct_fields__)
    try:
        # On the command line, all values are text.
        given = {name: value for name, value in args.items() if name in own}
        replicas = msgspec.convert(given, Replicas, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"args: {error}") from None
    rest = {name: value for name, value in args.items() if name not in own}
    return replicas, read(rest | {"parallel": str(replicas.parallel)}, "args")
