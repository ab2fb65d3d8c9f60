"""Relative error of each tensor over the layers, as SVG made by hand. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from convert.report import Measured
from portable.report.summary import place

WIDTH, HEIGHT = 920, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 44
SERIES = 8  # colours that can be told apart; what is left is one series more


def plot(tensors: Sequence[Measured]) -> str:
    """One line of marks for each kind of tensor; tensors outside the layers stand at the sides."""
    layers = 1 + max((place(t.name)[0] or 0 for t in tensors), default=0)
    top = _ceiling(max((t.error for t in tensors), default=0.0))
    frame = _Frame(layers, top)
    parts = [*_axes(frame)]
    for number, (_, members) in enumerate(series(tensors)):
        parts.append(_marks(frame, members, number))
    label = "Relative error of each tensor by layer"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def series(tensors: Sequence[Measured]) -> list[tuple[str, list[Measured]]]:
    """Tensors of one kind, in the order of the layers; the kinds of most bytes first."""
    kinds: dict[str, list[Measured]] = {}
    for tensor in tensors:
        kinds.setdefault(place(tensor.name)[1], []).append(tensor)
    ordered = sorted(kinds.items(), key=lambda kind: -sum(tensor.size for tensor in kind[1]))
    rest = [tensor for _, members in ordered[SERIES:] for tensor in members]
    return ordered[:SERIES] + ([("other", rest)] if rest else [])


class _Frame:
    """Where a layer and an error are on the picture."""

    def __init__(self, layers: int, top: float) -> None:
        self.layers, self.top = layers, top
        # One place at each side: what is before the layers and what comes after.
        self.step = (WIDTH - LEFT - RIGHT) / (layers + 2)

    def x(self, tensor: Measured) -> float:
        layer, what = place(tensor.name)
        if layer is None:
            layer = -1 if "embd" in what else self.layers
        return LEFT + (layer + 1.5) * self.step

    def y(self, error: float) -> float:
        return TOP + (1 - error / self.top) * (HEIGHT - TOP - BOTTOM)


def _ceiling(highest: float) -> float:
    """The next of 1, 1.5, 2, 3, 5 and 7.5 times a power of ten."""
    if highest <= 0:
        return 0.01
    power = 10.0 ** math.floor(math.log10(highest))
    return next(m * power for m in (1, 1.5, 2, 3, 5, 7.5, 10) if highest <= m * power * 1.0001)


def _axes(frame: _Frame) -> Iterator[str]:
    for part in range(6):
        error = frame.top * part / 5
        y = frame.y(error)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
        yield f"{100 * error:.3g}%</text>"
    stride = math.ceil(frame.layers / 24)
    for layer in range(0, frame.layers, stride):
        yield _below(LEFT + (layer + 1.5) * frame.step, 24, str(layer))
    yield _below((LEFT + WIDTH - RIGHT) / 2, 6, "layer 层")


def _below(x: float, height: float, text: str) -> str:
    y = HEIGHT - height
    return f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>'


def _marks(frame: _Frame, members: Sequence[Measured], number: int) -> str:
    points = [(frame.x(tensor), frame.y(tensor.error), tensor) for tensor in members]
    inside = [f"{x:.1f},{y:.1f}" for x, y, tensor in points if place(tensor.name)[0] is not None]
    line = f'<polyline points="{" ".join(inside)}"/>' if number < SERIES and inside[1:] else ""
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"><title>{escape(tensor.name)} · '
        f"{tensor.type} · {100 * tensor.error:.3g}%</title></circle>"
        for x, y, tensor in points
    )
    return f'<g class="s{number}">{line}{dots}</g>'
