"""How fast a running server or a local model answers; does not know how either works inside."""

from portable.bench.local import bench_model
from portable.bench.options import BenchOptions, Prompt
from portable.bench.plot import plot
from portable.bench.render import render, to_json
from portable.bench.report import Level, Machine, Report
from portable.bench.restart import Restart, bench_restart
from portable.bench.server import bench_server
from portable.bench.steps import Shape, Steps, bench_steps

__all__ = [
    "BenchOptions",
    "Level",
    "Machine",
    "Prompt",
    "Report",
    "Restart",
    "Shape",
    "Steps",
    "bench_model",
    "bench_restart",
    "bench_server",
    "bench_steps",
    "plot",
    "render",
    "to_json",
]
