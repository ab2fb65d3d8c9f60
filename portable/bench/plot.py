"""A report as a picture: throughput and time to first token over the clients. SVG made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from portable.bench.report import Level, Report

WIDTH, HEIGHT = 860, 360
_PANEL, _GAP, _LEFT, _TOP, _BOTTOM = 350, 90, 56, 64, 52
_STYLE = """
text{font:13px system-ui,sans-serif;fill:#1a1a1a}.small{font-size:12px;fill:#5a5a5a}
.title{font-size:15px;font-weight:600}.grid{stroke:#d8d8d8}rect{fill:#fff}
polyline{fill:none;stroke:#0b6bcb;stroke-width:2}circle{fill:#0b6bcb}
.worst polyline{stroke:#b4540a;stroke-dasharray:5 4}.worst circle{fill:#b4540a}
@media(prefers-color-scheme:dark){text{fill:#eee}.small{fill:#aaa}.grid{stroke:#444}rect{fill:#161616}
polyline{stroke:#6db3ff}circle{fill:#6db3ff}
.worst polyline{stroke:#ffb072}.worst circle{fill:#ffb072}}
"""


def plot(report: Report) -> str:
    """A whole SVG file; levels at which nothing was answered are left out."""
    levels = [level for level in report.levels if level.ok]
    title = escape(f"{report.model}: {report.prompt} prompts, {report.max_tokens} tokens")
    where = escape(f"{report.target} · {report.machine.processor} · {report.started}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}</title><style>{_STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{_LEFT}" y="24">{title}</text>',
        f'<text class="small" x="{_LEFT}" y="42">{where}</text>',
        *_panel(0, "all tok/s", levels, {"": [level.throughput for level in levels]}),
        *_panel(
            _PANEL + _GAP,
            "first token, s: median, and the worst (dashed)",
            levels,
            {
                "": [level.first_median or 0.0 for level in levels],
                "worst": [level.first_worst or 0.0 for level in levels],
            },
        ),
        "</svg>\n",
    ]
    return "".join(parts)


def _panel(
    left: float, title: str, levels: Sequence[Level], lines: dict[str, list[float]]
) -> Iterator[str]:
    """Axes from 0, and a line of marks for each list of values."""
    top = _ceiling(max((value for values in lines.values() for value in values), default=0))
    xs = [left + _LEFT + 16 + at * _step(len(levels)) for at in range(len(levels))]
    yield f'<text x="{left + _LEFT}" y="{_TOP}">{title}</text>'
    for part in range(5):
        y = _y(part / 4)
        yield f'<line class="grid" x1="{left + _LEFT}" x2="{left + _PANEL}" y1="{y}" y2="{y}"/>'
        yield _text(left + _LEFT - 8, y + 4, f"{top * part / 4:g}", "end")
    for x, level in zip(xs, levels):
        yield _text(x, HEIGHT - _BOTTOM + 20, str(level.clients))
    yield _text(left + (_LEFT + _PANEL) / 2, HEIGHT - 12, "clients")
    for kind, values in lines.items():
        points = [(x, _y(value / top)) for x, value in zip(xs, values)]
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{value:.3g}</title></circle>'
            for (x, y), value in zip(points, values)
        )
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<g class="{kind}"><polyline points="{line}"/>{dots}</g>'


def _step(count: int) -> float:
    return (_PANEL - _LEFT - 32) / max(1, count - 1)


def _y(share: float) -> float:
    return _TOP + 16 + (1 - share) * (HEIGHT - _TOP - 16 - _BOTTOM)


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _ceiling(highest: float) -> float:
    """The next of 1, 2, 4 and 8 times a power of ten, so that quarters are round."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(m * power for m in (1, 2, 4, 8, 10) if highest <= m * power * 1.0001)
