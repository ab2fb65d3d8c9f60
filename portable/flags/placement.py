"""Flags that say what of a model lies where: devices, layers, experts, and how the file is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from portable.engine.config import ENGINE, LoadMode, Numa, parse_gpu_layers
from portable.engine.rpc.endpoint import endpoints
from portable.errors import UsageError


@dataclass(frozen=True)
class Placement:
    """What lies where. Without these flags the planner decides."""

    gpu_layers: Annotated[str, typer.Option(help="Layers on the GPU: auto, all or a number.")] = (
        ENGINE["gpu_layers"]
    )
    device: Annotated[
        str | None,
        typer.Option(
            help="Devices to use, as `portable devices` names them: CUDA0,RPC0; none is the CPU.",
            show_default="all",
        ),
    ] = None
    tensor_split: Annotated[
        str | None,
        typer.Option(help="Shares of the devices, such as 3,1.", show_default="planned"),
    ] = None
    main_gpu: Annotated[
        int | None, typer.Option(help="Only this one of the devices, counted from 0.", min=0)
    ] = None
    n_cpu_moe: Annotated[
        str, typer.Option(help="Layers whose experts stay on the host: auto, all or a number.")
    ] = "auto"
    load_mode: Annotated[
        LoadMode, typer.Option(help="How the file is read; mlock keeps it from being swapped out.")
    ] = ENGINE["load_mode"]
    numa: Annotated[Numa, typer.Option(help="Threads on machines with several memories.")] = ENGINE[
        "numa"
    ]
    rpc: Annotated[
        str | None,
        typer.Option(
            envvar="PORTABLE_RPC",
            help="Machines that run `portable worker`, as HOST:PORT,HOST:PORT: for what this one"
            " cannot hold, or with --gpu-layers.",
        ),
    ] = None
    rpc_timeout: Annotated[
        float,
        typer.Option(help="Seconds for a step, after which a worker counts as lost.", min=1),
    ] = ENGINE["rpc_seconds"]

    @property
    def workers(self) -> tuple[str, ...]:
        """As `host:port`. Raises UsageError."""
        return endpoints(self.rpc or "")

    @property
    def placement(self) -> dict[str, Any]:
        """These flags as fields of EngineConfig. Raises UsageError."""
        return {
            "gpu_layers": parse_gpu_layers(self.gpu_layers),
            "devices": _names(self.device),
            "tensor_split": _shares(self.tensor_split),
            "main_gpu": self.main_gpu,
            "cpu_moe": parse_gpu_layers(self.n_cpu_moe, "--n-cpu-moe"),
            "load_mode": self.load_mode,
            "numa": self.numa,
            "rpc": self.workers,
            "rpc_seconds": self.rpc_timeout,
        }


def _names(text: str | None) -> tuple[str, ...] | None:
    """`CUDA0,RPC0`; `none` is no device, None all."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError("--device names no device", hint="such as CUDA0, or none for the CPU")
    return () if [name.lower() for name in names] == ["none"] else names


def _shares(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(
            f"--tensor-split {text!r} is no list of numbers", hint="such as 3,1"
        ) from None
